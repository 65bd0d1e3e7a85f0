package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/secretbroker/secretbroker/bench/testbed"
)

// vaultSetup configures a Vault server.
type vaultSetup struct {
	binary, name string
	// audit enables the audit log in a file.
	audit bool
	// onlyPolicy leaves out the token's default policy.
	onlyPolicy bool
}

func (b *bed) vault(setup vaultSetup) server {
	return server{name: setup.name, start: func(ctx context.Context) (*testbed.Process, string, error) {
		v := &vaultServer{}
		p, err := testbed.StartUntil(b.serverCPUs, b.env, func(line string, p *testbed.Process) bool {
			var at struct {
				Address   string `json:"address"`
				RootToken string `json:"root_token"`
			}
			if json.Unmarshal([]byte(line), &at) != nil || at.RootToken == "" {
				fmt.Fprintln(os.Stderr, line)
				return false
			}
			p.Addr, v.root = at.Address, at.RootToken
			return true
		}, setup.binary, "-cert", b.world.ServerCertFile(), "-key", b.world.ServerKeyFile(), "-client-ca", b.world.ClientCAFile())
		if err != nil {
			return nil, "", err
		}
		file, err := b.prepareVault(ctx, v, p.Addr, setup)
		if err != nil {
			return nil, "", errors.Join(err, p.Stop())
		}
		return p, file, nil
	}}
}

// vaultServer is a client of a server's API with its root token.
type vaultServer struct {
	url, root string
	client    *http.Client
}

// prepareVault mounts a KV engine, version 2, with the secret, and creates a token that may
// read it. It returns the calls that read the secret.
func (b *bed) prepareVault(ctx context.Context, v *vaultServer, addr string, setup vaultSetup) (string, error) {
	pair, err := tls.LoadX509KeyPair(b.client[0], b.client[1])
	if err != nil {
		return "", err
	}
	config, err := testbed.ClientTLS(b.world.Env.CAFile, pair)
	if err != nil {
		return "", err
	}
	v.url, v.client = "https://"+addr+"/v1/", &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	defer v.client.CloseIdleConnections()
	if _, err := v.post(ctx, "sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}}); err != nil {
		return "", err
	}
	path := "secret/data/" + storedSecret
	for begin := time.Now(); ; wait(ctx, 50*time.Millisecond) { // Vault prepares the mount in the background
		_, err := v.post(ctx, path, map[string]any{"data": map[string]string{"user": user, "password": password}})
		if err == nil {
			break
		}
		if time.Since(begin) > 10*time.Second {
			return "", err
		}
	}
	if _, err := v.post(ctx, "sys/policies/acl/reader", map[string]any{"policy": `path "secret/data/*" { capabilities = ["read"] }`}); err != nil {
		return "", err
	}
	token, err := v.post(ctx, "auth/token/create", map[string]any{"policies": []string{"reader"}, "no_default_policy": setup.onlyPolicy, "ttl": "1h"})
	if err != nil {
		return "", err
	}
	if setup.audit {
		log := filepath.Join(b.world.Dir(), "vault-audit.log")
		_ = os.Remove(log) // from the previous round
		if _, err := v.post(ctx, "sys/audit/file", map[string]any{"type": "file", "options": map[string]string{"file_path": log}}); err != nil {
			return "", err
		}
	}
	return b.writeCalls("vault", calls{Path: "/v1/" + path, Fields: [][2]string{{"x-vault-token", token}, {"x-vault-request", "true"}}})
}

// post sends a write request and returns the token in the answer, if there is one.
func (v *vaultServer) post(ctx context.Context, path string, body any) (token string, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url+path, bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Vault-Token", v.root)
	resp, err := v.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if data, err = io.ReadAll(resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return "", fmt.Errorf("%s: %s: %s", path, resp.Status, data)
	}
	var answer struct {
		Auth *struct {
			ClientToken string `json:"client_token"`
		} `json:"auth"`
	}
	if len(data) > 0 {
		err = json.Unmarshal(data, &answer)
	}
	if answer.Auth != nil {
		token = answer.Auth.ClientToken
	}
	return token, err
}
