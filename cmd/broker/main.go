// Command broker is secretbroker under the name of its folder.
package main

import "github.com/secretbroker/secretbroker/internal/app"

func main() { app.Main() }
