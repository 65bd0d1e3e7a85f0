package audit_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/audit/logread"
)

func TestMain(m *testing.M) {
	audit.Verify = func(ctx context.Context, heads []chain.Head, files []string) (v audit.Verified, err error) {
		r, err := logread.Verify(ctx, logread.VerifyConfig{Heads: heads}, files)
		if err != nil {
			return v, err
		}
		v.Records, v.First, v.UnchainedBytes = r.Records, r.First.Seq, r.UnchainedBytes
		if r.Break != nil {
			v.Break = r.Break.String()
		}
		return v, nil
	}
	goleak.VerifyTestMain(m)
}
