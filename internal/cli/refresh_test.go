package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
)

// The command reports replicas that may answer with older values, and ends with the code for
// findings.
func TestRefreshCoverage(t *testing.T) {
	read := map[string]client.Refreshed{"p": {Version: "v1", FetchTime: time.Unix(1e9, 5).UTC()}}
	replica := client.Replica{ID: "r1", Name: "broker-2:8443", LastSeenTime: time.Unix(1e9, 0).UTC()}
	denied := map[string]client.ConfigError{"q": {Config: "q", Reason: client.ReasonAccessDenied, Message: "no grant"}}
	for _, tt := range []struct {
		res  client.RefreshResponse
		code int
		want string
	}{
		{client.RefreshResponse{Configs: read, Coverage: client.CoverageAllReplicas}, exit.OK, "no replica answers with an older value"},
		{client.RefreshResponse{Configs: read, Coverage: client.CoverageThisReplica}, exit.OK, "only the replica that answered"},
		{client.RefreshResponse{Configs: read, Coverage: client.CoverageSomeReplicas, Unacknowledged: []client.Replica{replica}}, exit.Findings, "broker-2:8443 (r1), last seen 2001-09-09T01:46:40Z"},
		{client.RefreshResponse{Configs: read, Coverage: client.CoverageUnknown}, exit.Findings, "could not tell"},
		{client.RefreshResponse{Configs: read, Errors: denied, Coverage: client.CoverageUnknown}, exit.Denied, "q: ACCESS_DENIED: no grant"},
	} {
		for _, output := range []string{"table", "json"} {
			var out bytes.Buffer
			cmd := &cobra.Command{}
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			code := exit.OK
			if e, ok := errors.AsType[*exit.Error](printRefreshed(cmd, output, &tt.res)); ok {
				code = e.Code
			}
			if code != tt.code {
				t.Errorf("%s, %s: exit code %d, want %d", tt.res.Coverage, output, code, tt.code)
			}
			want := tt.want
			if output == "json" {
				want = `"coverage": "` + string(tt.res.Coverage) + `"`
			}
			if got := out.String(); !strings.Contains(got, want) || !strings.Contains(got, "2001-09-09T01:46:40.000000005Z") {
				t.Errorf("%s, %s: %s", tt.res.Coverage, output, got)
			}
		}
	}
}

// If no config was read, other replicas are not at fault.
func TestRefreshWithoutReads(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	denied := map[string]client.ConfigError{"q": {Config: "q", Reason: client.ReasonAccessDenied, Message: "no grant"}}
	err := printRefreshed(cmd, "table", &client.RefreshResponse{Errors: denied, Coverage: client.CoverageUnknown})
	if e, ok := errors.AsType[*exit.Error](err); !ok || e.Code != exit.Denied {
		t.Errorf("%v, want exit code %d", err, exit.Denied)
	}
	if got := out.String(); !strings.Contains(got, "q: ACCESS_DENIED: no grant") || strings.Contains(got, "replicas") {
		t.Errorf("output %q", got)
	}
}
