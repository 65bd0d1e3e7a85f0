// Package examples holds sample connector configurations that refer to secrets.
// They are files for people to read and post, and for "broker check" to be tried
// on beside "broker dev": they ask for the integration and the vault of the
// broker's development mode.
//
// Beside them, in folders of their own, are programs that call a broker: in Go, in
// Python, and a Kafka Connect worker.
//
// There is one sample for every form that a reference and a file may have, and in
// faults/ one for everything that can be wrong with them, named after it.
// cmd/broker's tests say what comes of each. This package imports nothing.
package examples

import "embed"

// Files is what the broker itself needs of the samples: sqlserver-cdc.json, a SQL
// Server CDC source connector whose user and password are two members of one
// JSON secret.
//
//go:embed sqlserver-cdc.json
var Files embed.FS
