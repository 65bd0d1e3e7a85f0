// Command perf measures the cost of a Resolve in comparison with a gRPC server that only
// returns constant answers (the floor). Broker and floor servers run as separate processes on
// the same CPUs, and the load in another process on other CPUs. The runs of the servers
// alternate, so that disturbances of the machine affect all of them equally.
//
//	go run ./bench/perf run                      # the table, and results.json
//	go run ./bench/perf compare OLD.json NEW.json
//
// The floor is a default grpc-go server with the broker's TLS that answers every Resolve with
// the same two values. The tuned floor also has the broker's gRPC settings and codec. The
// tables show a server's ratio to the floor in the same round; absolute figures mean little
// on another machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage:
  perf run [flags]                 measure and print tables
  perf compare OLD.json NEW.json   compare two saved runs
  perf matrix [flags]              measure over shapes of machines, disks and loads
  perf matrix-docs [flags]         write a saved matrix into a document
  perf facts [flags]               measure cold calls, a herd, connections, a start
  perf growth [flags]              measure how the cost of a call grows
  perf watch [flags]               measure streams of Watch
  perf churn [flags]               let an hour of comings and goings happen
  perf peers [flags]               measure what one would use instead
  perf floor [flags]               a floor server, as run starts it
  perf load [flags]                the load, as run starts it

perf COMMAND -h lists the flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := mainWithCode(ctx, os.Args[1:])
	stop()
	os.Exit(code) //nolint:forbidigo // this is main
}

func mainWithCode(ctx context.Context, args []string) int {
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	var err error
	switch command {
	case "run":
		err = run(ctx, args)
	case "matrix":
		err = matrix(ctx, args)
	case "matrix-docs":
		err = matrixDocs(args)
	case "facts":
		err = facts(ctx, args)
	case "growth":
		err = growth(ctx, args)
	case "watch":
		err = watch(ctx, args)
	case "churn":
		err = churn(ctx, args)
	case "peers":
		err = peers(ctx, args)
	case "compare":
		err = compare(args)
	case "floor":
		err = floor(ctx, args)
	case "load":
		err = load(ctx, args)
	default:
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "perf:", err)
		return 1
	}
	return 0
}
