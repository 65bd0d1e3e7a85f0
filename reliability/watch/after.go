package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// resolveAll compares what is true with what Resolve answers, which shows that this program
// knows what is true.
func (w *world) resolveAll(ctx context.Context) (found []finding) {
	for i := range integrations {
		integration := integrationName(i)
		for _, who := range principals() {
			is := w.truth.is(who, item{integration, secretName(0)})
			req := &secretbrokerv1.ResolveRequest{IntegrationId: integration, Configs: make(map[string]string), MaxAge: durationpb.New(0)}
			for k := range secretsEach {
				req.Configs[secretName(k)] = referenceOf(item{integration, secretName(k)})
			}
			called, cancel := context.WithTimeout(ctx, 20*time.Second)
			resp, err := secretbrokerv1.NewResolverServiceClient(w.conns[who][0]).Resolve(called, req)
			cancel()
			if is.denied || who == rotator {
				if err == nil {
					found = append(found, finding{"a value for a caller without a grant", who + " and " + integration})
				}
				continue
			}
			if err != nil {
				found = append(found, finding{"no answer after all faults", fmt.Sprintf("%s, %s: %v", who, integration, err)})
				continue
			}
			for name, c := range resp.GetConfigs() {
				if want := w.truth.is(who, item{integration, name}).version; c.GetVersion() != want {
					found = append(found, finding{"Resolve has another version", fmt.Sprintf("%s of %s: %s, want %s", name, integration, c.GetVersion(), want)})
				}
			}
		}
	}
	return found
}

// leftovers are the metrics that are 0 without clients.
var leftovers = []string{"secretbroker_watch_items", "secretbroker_watch_secrets", "secretbroker_watch_principals", `secretbroker_streams{service="watch"}`}

// nothingLeft waits until the replicas know of no stream, and returns what they keep.
func (w *world) nothingLeft(ctx context.Context) []finding {
	var left []finding
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		left = nil
		for i, r := range w.replicas {
			page, err := r.get("/metrics")
			if err != nil {
				left = append(left, finding{"a replica does not answer", err.Error()})
				continue
			}
			for _, name := range leftovers {
				if !strings.Contains(page, "\n"+name+" 0\n") {
					left = append(left, finding{"a replica keeps streams", fmt.Sprintf("replica %d: %s is not 0", i, name)})
				}
			}
			if strings.Contains(page, canary) {
				left = append(left, finding{"a value in the metrics", r.admin})
			}
		}
		if len(left) == 0 {
			return nil
		}
	}
	return left
}

func (r *replica) get(page string) (string, error) {
	resp, err := http.Get("http://" + r.admin + page)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// logFindings searches the logs and audit logs for races, panics and values.
func (w *world) logFindings() (found []finding) {
	files, _ := filepath.Glob(filepath.Join(w.Env.Dir, "replica-*"))
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			found = append(found, finding{"a log cannot be read", err.Error()})
		}
		for _, sign := range []string{"DATA RACE", "panic", canary} {
			if at := bytes.Index(text, []byte(sign)); at >= 0 {
				found = append(found, finding{"in a log: " + sign, string(text[at:min(len(text), at+2000)])})
			}
		}
	}
	return found
}
