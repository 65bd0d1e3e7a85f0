// Command secretbroker answers connector runtimes that ask for secrets: the server, a
// development mode, and the client.
package main

import "github.com/secretbroker/secretbroker/internal/app"

func main() { app.Main() }
