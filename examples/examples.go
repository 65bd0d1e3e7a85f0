// Package examples holds sample connector configurations that refer to secrets.
// They are files for people to read and post, embedded so that tests and the
// command line can use the very same ones. It imports nothing.
package examples

import "embed"

// Files are the samples:
//
//   - sqlserver-cdc.json: a SQL Server CDC source connector whose user and
//     password are two members of one JSON secret. It asks for the integration
//     and the vault of the broker's development mode.
//
//go:embed *.json
var Files embed.FS
