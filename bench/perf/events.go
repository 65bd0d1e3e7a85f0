package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// events are the events of the assumed hour of one broker.
func (s *scene) events() []*event {
	return []*event{
		{what: "calls of 40 callers that stay, for 500 secrets", perHour: 360_000, atOnce: 128, do: s.ask},
		{what: "secrets with new names, more than the cache holds", perHour: 60_000, atOnce: 64, do: s.askNew},
		{what: "uses by connectors with new names", perHour: 36_000, atOnce: 32, do: s.askAsNew},
		{what: "connections made, used once and closed", perHour: 18_000, atOnce: 32, do: s.visit},
		{what: "callers never seen before", perHour: 3_600, atOnce: 16, do: s.stranger},
		{what: "references that fail, in seven ways, with new names", perHour: 18_000, atOnce: 32, do: s.fail},
		{what: "calls that their callers give up", perHour: 3_600, atOnce: 16, do: s.giveUp},
		{what: "streams opened and given up", perHour: 3_600, atOnce: 16, do: s.stream},
		{what: "connections that never send anything", perHour: 1_800, atOnce: 16, do: s.silence},
		{what: "secrets rotated, and read at once", perHour: 1_200, atOnce: 8, do: s.rotate},
		{what: "integrations changed", perHour: 240, atOnce: 1, do: s.change},
		{what: "integrations made, used and deleted", perHour: 240, atOnce: 4, do: s.comeAndGo},
		{what: "herds: 200 calls on 20 new connections for 50 new secrets", perHour: 24, atOnce: 1, do: s.herd},
		{what: "the audit log rotated, everything reloaded (SIGHUP)", perHour: 24, atOnce: 1, do: s.hangup},
	}
}

// expect checks the value in a call's answer.
func expect(want, got string, err error) error {
	if err == nil && got != want {
		return fmt.Errorf("a wrong value, of %d bytes", len(got))
	}
	return err
}

// expectCode checks that a call failed with the given code.
func expectCode(want codes.Code, err error) error {
	switch status.Code(err) {
	case want:
		return nil
	case codes.OK:
		return fmt.Errorf("answered instead of %v", want)
	default:
		return err
	}
}

func (s *scene) inVault() *secretbrokerv1.ResolveRequest {
	return &secretbrokerv1.ResolveRequest{IntegrationId: s.world.Env.IntegrationID, Connector: "orders"}
}

func (s *scene) ask(ctx context.Context, n int) error {
	got, err := resolve(ctx, s.conns[n%staff], s.inVault(), fmt.Sprintf("%s::s%d::password", devmode.VaultURL, n%stored))
	if err == nil && !strings.HasPrefix(got, fmt.Sprintf("correct-horse-battery-staple-%d-", n%stored)) {
		return fmt.Errorf("a wrong value, of %d bytes", len(got))
	}
	return err
}

// newName creates a secret that no call has requested yet, and returns its reference.
func (s *scene) newName() (ref, value string, remove func(), err error) {
	name := fmt.Sprint("n", s.made.Add(1))
	value = fmt.Sprintf("%s-%01000d", name, 0)
	path := s.path(names, name)
	return fmt.Sprintf("file://%s::%s::password", s.path(names), name), value, func() { _ = os.Remove(path) }, // the directory is removed at the end
		os.WriteFile(path, fmt.Appendf(nil, `{"password":%q}`, value), 0o600)
}

func (s *scene) askNew(ctx context.Context, n int) error {
	ref, value, remove, err := s.newName()
	if err != nil {
		return err
	}
	defer remove()
	got, err := resolve(ctx, s.conns[n%staff], &secretbrokerv1.ResolveRequest{IntegrationId: names, Connector: "orders"}, ref)
	return expect(value, got, err)
}

func (s *scene) askAsNew(ctx context.Context, n int) error {
	req := s.inVault()
	req.Connector = fmt.Sprint("connector-", n)
	_, err := resolve(ctx, s.conns[n%staff], req, devmode.VaultURL+"::s1::password")
	return err
}

func (s *scene) visit(ctx context.Context, n int) error {
	return s.callAs(ctx, fmt.Sprint("/connect/visitor-", n%100))
}

func (s *scene) stranger(ctx context.Context, n int) error {
	return s.callAs(ctx, fmt.Sprint("/connect/stranger-", n))
}

func (s *scene) callAs(ctx context.Context, path string) error {
	conn, err := s.caller(path)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = resolve(ctx, conn, s.inVault(), devmode.VaultURL+"::s1::password")
	return err
}

func (s *scene) fail(ctx context.Context, n int) error {
	req, conn, want := s.inVault(), s.conns[n%staff], codes.NotFound
	ref := fmt.Sprintf("%s::missing-%d", devmode.VaultURL, n)
	switch n % 7 {
	case 0:
		want, ref = codes.FailedPrecondition, fmt.Sprintf("https://no-role-key-vault.vault.azure.net::s%d", n)
	case 1:
		want, ref = codes.PermissionDenied, fmt.Sprintf("%s::oracle-%d", devmode.VaultURL, n)
	case 2:
		ref = fmt.Sprintf("%s::s%d::key-%d", devmode.VaultURL, n%stored, n)
	case 3:
		want, ref = codes.InvalidArgument, fmt.Sprint("no reference ", n)
	case 4:
		want, req.IntegrationId = codes.PermissionDenied, fmt.Sprint("none-", n)
	case 5:
		want, conn = codes.PermissionDenied, s.other
	}
	_, err := resolve(ctx, conn, req, ref)
	return expectCode(want, err)
}

func (s *scene) giveUp(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
	defer cancel()
	req := s.inVault()
	req.MaxAge = durationpb.New(0)
	_, err := resolve(ctx, s.conns[n%staff], req, fmt.Sprintf("%s::s%d::password", devmode.VaultURL, n%stored))
	if status.Code(err) == codes.Unavailable { // the broker noticed it first
		return nil
	}
	return expectCode(codes.DeadlineExceeded, err)
}

func (s *scene) stream(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	health, err := healthpb.NewHealthClient(s.conns[n%staff]).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	_, err = health.Recv()
	return err
}

func (s *scene) silence(ctx context.Context, _ int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.broker.Addr)
	if err != nil {
		return err
	}
	wait(ctx, time.Second)
	return conn.Close()
}

func (s *scene) rotate(ctx context.Context, n int) error {
	secret := n * 7 % stored
	s.mu.Lock()
	s.versions[secret]++
	value, err := s.value(secret), s.writeSecrets()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	req := s.inVault()
	req.MaxAge = durationpb.New(0)
	got, err := resolve(ctx, s.conns[n%staff], req, fmt.Sprintf("%s::s%d::password", devmode.VaultURL, secret))
	return expect(value, got, err)
}

func (s *scene) change(context.Context, int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeIntegrations()
}

func (s *scene) comeAndGo(ctx context.Context, n int) error {
	s.mu.Lock()
	data, err := os.ReadFile(s.path("integrations", s.world.Env.IntegrationID+".yaml"))
	s.mu.Unlock()
	if err != nil {
		return err
	}
	req := s.inVault()
	req.IntegrationId = fmt.Sprint("coming-", n)
	file := s.path("integrations", req.IntegrationId+".yaml")
	if err := replace(file, strings.Replace(string(data), "id: "+s.world.Env.IntegrationID, "id: "+req.IntegrationId, 1)); err != nil {
		return err
	}
	for {
		_, err := resolve(ctx, s.conns[n%staff], req, devmode.VaultURL+"::s1::password")
		if status.Code(err) != codes.PermissionDenied { // denied until the broker has read the file
			_ = os.Remove(file) // the directory is removed at the end
			return err
		}
		wait(ctx, 50*time.Millisecond)
	}
}

func (s *scene) herd(ctx context.Context, n int) error {
	const secrets, conns, calls = 50, 20, 200
	refs, values := make([]string, secrets), make([]string, secrets)
	for i := range refs {
		ref, value, remove, err := s.newName()
		if err != nil {
			return err
		}
		defer remove()
		refs[i], values[i] = ref, value
	}
	all := make([]*grpc.ClientConn, conns)
	for i := range all {
		conn, err := s.caller(fmt.Sprintf("/connect/herd-%d-%d", n, i))
		if err != nil {
			return err
		}
		defer conn.Close()
		all[i] = conn
	}
	var callers sync.WaitGroup
	failed := make(chan error, calls)
	for i := range calls {
		callers.Go(func() {
			got, err := resolve(ctx, all[i%conns], &secretbrokerv1.ResolveRequest{IntegrationId: names}, refs[i%secrets])
			failed <- expect(values[i%secrets], got, err)
		})
	}
	callers.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) hangup(context.Context, int) error {
	if err := os.Rename(s.path("audit.jsonl"), s.path("audit.old")); err != nil { // replaces the previous one
		return err
	}
	return syscall.Kill(s.broker.Pid(), syscall.SIGHUP)
}
