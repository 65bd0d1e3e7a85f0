/**
 * A Kafka {@code ConfigProvider} that resolves references to secrets through a secretbroker.
 *
 * <p>The package owns the settings, mutual TLS with files that are read again when they change, one
 * channel to the brokers for each worker, and errors that state what to do. It does not know secret
 * stores, policies or the syntax of references: it sends references unchanged, and the broker
 * validates them. It writes no value of a secret to a log, an exception or a metric.
 */
package io.github.secretbroker.connect;
