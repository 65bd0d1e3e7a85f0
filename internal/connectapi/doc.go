// Package connectapi is a client of the REST API of Kafka Connect, for the few calls that a
// rotation needs: list the connectors with their configurations and states, read the state of
// one, and restart one with its tasks. Load reads connect.yaml, which names the clusters.
//
// The package knows nothing of references or of the broker. Configurations may contain
// passwords and stack traces may, too: the package keeps no trace, and its errors quote
// nothing that a cluster has sent.
package connectapi
