package awssm

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestValidate: each step reports what it found, and no value is read.
func TestValidate(t *testing.T) {
	const otherURL, foreign = "https://" + otherHost, "arn:aws:secretsmanager:eu-west-1:" + otherOne
	for _, tt := range []struct {
		name   string
		change func(*Settings)
		grants []string
		want   string
		asked  string // prefix of the names that are requested
	}{
		{"all well", func(*Settings) {}, []string{"prod/*"}, "session ok, read " + storeURL + " ok, read " + otherURL + " ok", "prod/secretbroker-validate-"},
		{"no grants", func(*Settings) {}, nil, "session ok, read " + storeURL + " ok, read " + otherURL + " ok", "secretbroker-validate-"},
		{"one secret", func(*Settings) {}, []string{"db"}, "session ok, read " + storeURL + " ok, read " + otherURL + " ok", "db#" + noVersion},
		{"another account", func(a *Settings) { a.Stores = append(a.Stores[:2:2], foreign) }, nil, "session ok, read " + storeURL + " ok, read " + foreign + " unchecked", ""},
		{"no permission", func(a *Settings) { a.Role = nil }, nil,
			"session ok, read " + storeURL + " unchecked, read " + otherURL + " unchecked", ""},
		{"no permission for the secret that a grant names", func(a *Settings) { a.Role = nil }, []string{"db"},
			"session ok, read " + storeURL + " STORE_ACCESS_DENIED, read " + otherURL + " STORE_ACCESS_DENIED", ""},
		{"another external ID", func(a *Settings) { a.Role.ExternalID = "another" }, nil,
			"session STORE_AUTHENTICATION_FAILED, read " + storeURL + " skipped, read " + otherURL + " skipped", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.put(region, "db", canary)
			f.put("us-east-1", "db", canary)
			in := f.integration()
			tt.change(settingsOf(in))
			providertest.Grant(t, Spec(), in, `aws: {account_id: "`+account+`", credential: {type: default}, stores: `+providertest.List(settingsOf(in).Stores)+`}`, tt.grants)
			steps := f.open(f.Config(), in).Validate(t.Context())
			if got := providertest.Steps(steps); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			for _, step := range steps {
				if step.Err != nil {
					f.CheckError(step.Err, secret.AsError(step.Err).Reason)
				}
			}
			for _, read := range slices.Concat(f.asked("GetSecretValue"), f.asked("DescribeSecret")) {
				asked := read.SecretId
				if stage := read.VersionStage; stage != "AWSCURRENT" { // a policy may require it
					t.Errorf("asked for the stage %q", stage)
				}
				if read.VersionId != "" {
					asked += "#" + read.VersionId
				}
				if len(asked) < len(tt.asked) || asked[:len(tt.asked)] != tt.asked || asked == "db" {
					t.Errorf("asked for %s", asked)
				}
			}
		})
	}
}

// TestMotoValidate: an independent server that checks permissions answers as Validate
// expects when the version does not exist.
func TestMotoValidate(t *testing.T) {
	m := startMoto(t)
	m.create(&secretsmanager.CreateSecretInput{Name: aws.String("prod/db"), SecretString: aws.String(canary)})
	f := &fake{Env: providertest.NewEnv(t)}
	f.CAFile, f.Dial = m.caFile, map[string]string{smHost: m.addr, stsHost: m.addr}
	for _, secrets := range [][]string{{"prod/db"}, {"prod/*"}} {
		in := m.integration(f)
		providertest.Grant(t, Spec(), in, `aws: {account_id: "`+account+`", credential: {type: default}, stores: `+providertest.List(settingsOf(in).Stores)+`}`, secrets)
		if got, want := providertest.Steps(f.open(f.Config(), in).Validate(t.Context())), "session ok, read "+storeURL+" ok"; got != want {
			t.Errorf("%s: %s", secrets, got)
		}
	}
}
