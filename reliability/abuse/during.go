package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// usedIntegrations is the number of integrations that are used and then deleted.
const usedIntegrations = 3

// dial makes a connection of the suite to a broker.
func (b *bed) dial(to *broker, as identity) (*grpc.ClientConn, error) {
	config, err := as.tlsConfig(b.world.Env.CAFile)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+to.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// setGrant adds or removes the prober's grant: in the integration's file, or as the operator
// on the replica that is not attacked.
func (b *bed) setGrant(ctx context.Context, granted bool) error {
	if b.other == nil {
		who := "/connect/nobody"
		if granted {
			who = "/connect/prober"
		}
		file := b.path("integrations", "revocable.yaml")
		return errors.Join(os.WriteFile(file+".new", []byte(b.document("revocable", grant(who))), 0o600), os.Rename(file+".new", file))
	}
	conn, err := b.dial(b.other, b.operator)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, revocationWait)
	defer cancel()
	service := secretbrokerv1.NewIntegrationServiceClient(conn)
	use := &secretbrokerv1.Grant{Principals: []string{"spiffe://example.org/connect/prober"}}
	if granted {
		_, err = service.GrantUse(ctx, &secretbrokerv1.GrantUseRequest{IntegrationId: "revocable", Grant: use})
	} else {
		_, err = service.RevokeUse(ctx, &secretbrokerv1.RevokeUseRequest{IntegrationId: "revocable", Grant: use})
	}
	return err
}

// deleteUsed uses each integration ten times, as a worker that never used it before, and
// deletes it at once without force, which must be refused. It starts when the attack has
// filled as much as it can.
func deleteUsed(ctx context.Context, r *running) error {
	worker, err := r.bed.dial(r.bed.broker, r.bed.victim)
	if err != nil {
		return err
	}
	defer worker.Close()
	owner, err := r.bed.dial(r.bed.broker, r.bed.operator)
	if err != nil {
		return err
	}
	defer owner.Close()
	pause(ctx, r.options.attack*7/10)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var deleted float64
	for i := range usedIntegrations {
		id := fmt.Sprint("used-", i)
		use := &secretbrokerv1.ResolveRequest{IntegrationId: id, Connector: "a-new-one", Configs: map[string]string{"password": r.bed.reference("v-1")}}
		for range 10 {
			reason := insist(ctx, func() error {
				_, err := secretbrokerv1.NewResolverServiceClient(worker).Resolve(ctx, use)
				return err
			})
			if reason != "" {
				return fmt.Errorf("an integration could not be used: %s", reason)
			}
		}
		reason := insist(ctx, func() error {
			_, err := secretbrokerv1.NewIntegrationServiceClient(owner).DeleteIntegration(ctx, &secretbrokerv1.DeleteIntegrationRequest{IntegrationId: id})
			return err
		})
		switch reason {
		case "":
			deleted++
		case "INTEGRATION_IN_USE":
		default:
			return fmt.Errorf("deleting an integration in use was refused with %s", reason)
		}
	}
	r.figure("integrations in use that were deleted without force", fmt.Sprint("of ", usedIntegrations), deleted, 0)
	return nil
}

// insist retries a call while the broker is overloaded, and returns the final reason of the
// refusal.
func insist(ctx context.Context, do func() error) string {
	for {
		reason := reasonOf(do())
		if reason != "OVERLOADED" || ctx.Err() != nil {
			return reason
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// smallDisk mounts a disk of 8 MiB for the audit log.
func smallDisk(b *bed) (string, error) {
	dir := b.path("disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		return "", skipError{fmt.Sprintf("a small disk cannot be mounted here: %v", err)}
	}
	b.mounted = dir
	return filepath.Join(dir, "audit.jsonl"), nil
}

// aroundOutage is the tolerance around the time in which the disk is full: calls may fail
// that much earlier, and connections may be restored that much later.
const aroundOutage = 500 * time.Millisecond

// fillDisk fills the disk of the audit log. While no call is answered, /readyz must not
// report that the broker is ready. When there is room again, calls must be answered.
func fillDisk(ctx context.Context, r *running) error {
	pause(ctx, r.options.attack/5)
	filler := filepath.Join(r.bed.mounted, "filler")
	r.outFrom = time.Now().Add(-aroundOutage)
	if err := fill(filler); err != nil {
		return err
	}
	pause(ctx, 500*time.Millisecond)
	log, begin := r.bed.broker.logLines(), time.Now()
	looks, ready := 0, 0
	for until := begin.Add(r.options.attack * 2 / 5); time.Now().Before(until); pause(ctx, 50*time.Millisecond) {
		if looks++; r.bed.broker.ready() {
			ready++
		}
	}
	failed := phaseOf(r.calls.of(victimName, begin, time.Now().Add(-100*time.Millisecond)))
	lines := float64(r.bed.broker.logLines()-log) / time.Since(begin).Seconds()
	if err := os.Remove(filler); err != nil {
		return err
	}
	// The attackers have filled the disk, if they could. Now do what an operator does.
	if err := os.Truncate(filepath.Join(r.bed.mounted, "audit.jsonl"), 0); err != nil {
		return err
	}
	freed := time.Now()
	err := r.awaitAnswer(ctx, victimName, freed)
	r.outUntil = time.Now().Add(aroundOutage)
	r.figure("answers while the disk was full", "%", 100*failed.Share, 0)
	r.figure("/readyz said ready while the disk was full", "%", 100*float64(ready)/float64(max(1, looks)), 0)
	r.figure("log lines while the disk was full", "/s", lines, mostLogLines)
	r.figure("until the victim is answered when there is room", "s", time.Since(freed).Seconds(), 5)
	if looks == 0 || failed.Calls == 0 {
		return errors.New("the attack was too short to look at a full disk")
	}
	return err
}

// fill writes a file until no byte fits.
func fill(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int{1 << 16, 1 << 12, 1} {
		for block := []byte(strings.Repeat("x", size)); err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, unix.ENOSPC) {
			return err
		}
		err = nil
	}
	return nil
}
