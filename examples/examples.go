// Package examples contains sample connector configurations with references to secrets.
// Users can read them, and try "secretbroker check" on them with "secretbroker dev": they use the
// integration and the vault of the broker's development mode.
//
// Subdirectories contain programs that call a broker, in Go and in Python, and a Kafka
// Connect worker.
//
// There is one sample for each form of a reference and of a file. faults/ contains one
// sample for each possible error, named after the error. The tests of internal/app contain
// the expected result of each. This package imports nothing.
package examples

import "embed"

// Files contains the sample that the broker itself uses: sqlserver-cdc.json, a SQL Server
// CDC source connector whose user and password are two members of one JSON secret.
//
//go:embed sqlserver-cdc.json
var Files embed.FS
