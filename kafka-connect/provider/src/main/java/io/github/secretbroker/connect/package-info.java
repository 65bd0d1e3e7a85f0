/**
 * A Kafka {@code ConfigProvider} that has references to secrets resolved by a secretbroker.
 *
 * <p>It owns the way from a worker's placeholder to the broker and back: settings, mutual TLS with
 * files that are read again when they change, one channel to the brokers for a whole worker, and
 * errors that say what to do. It knows nothing of secret stores, policies or how references are
 * written: it sends what it is given and the broker judges it. No value of a secret is written to a log,
 * an exception or a metric.
 */
package io.github.secretbroker.connect;
