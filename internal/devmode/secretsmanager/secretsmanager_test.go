package secretsmanager_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
)

const (
	smURL   = "https://secretsmanager.eu-west-1.amazonaws.com/"
	stsURL  = "https://sts.eu-west-1.amazonaws.com/"
	arn     = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db"
	content = "{regions: {eu-west-1: {delay: 1ms, secrets: {db: {suffix: AbCdEf, next_rotation: 2030-01-01T00:00:00Z, versions: [{value: old}, {value: VALUE}]}}}}}"
)

var identity = secretsmanager.Identity{
	AccessKeyID: "AKIABASE", SecretAccessKey: "base", RoleARN: "arn:aws:iam::123456789012:role/team/reader", ExternalID: "ext",
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, now *time.Time, log *slog.Logger) (s *secretsmanager.Server, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "secrets.yaml")
	write(t, path, strings.Replace(content, "VALUE", "one", 1))
	s, err := secretsmanager.Open(secretsmanager.Config{Path: path, Identity: identity, Logger: log, Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

// request returns a request that is signed with AWS's own signer.
func request(keys aws.Credentials, at time.Time, url, target, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, url, strings.NewReader(body))
	r.Header.Set("X-Amz-Target", target)
	sum := sha256.Sum256([]byte(body))
	service, _, _ := strings.Cut(r.Host, ".")
	if err := v4.NewSigner().SignHTTP(context.Background(), keys, r, hex.EncodeToString(sum[:]), service, "eu-west-1", at); err != nil {
		panic(err)
	}
	return r
}

func ask(s http.Handler, r *http.Request) (int, string) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func between(text, tag string) string {
	_, rest, _ := strings.Cut(text, "<"+tag+">")
	value, _, _ := strings.Cut(rest, "</")
	return value
}

const assume = "Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fteam%2Freader&RoleSessionName=n&ExternalId=ext&DurationSeconds=900"

func session(t *testing.T, s http.Handler, at time.Time) aws.Credentials {
	t.Helper()
	status, body := ask(s, request(aws.Credentials{AccessKeyID: "AKIABASE", SecretAccessKey: "base"}, at, stsURL, "", assume))
	if status != 200 || between(body, "Arn") != "arn:aws:sts::123456789012:assumed-role/reader/n" {
		t.Fatalf("HTTP %d: %s", status, body)
	}
	return aws.Credentials{AccessKeyID: between(body, "AccessKeyId"), SecretAccessKey: between(body, "SecretAccessKey"), SessionToken: between(body, "SessionToken")}
}

func TestAssumeRole(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s, _ := open(t, &now, nil)
	base := aws.Credentials{AccessKeyID: "AKIABASE", SecretAccessKey: "base"}
	for name, tt := range map[string]struct {
		keys aws.Credentials
		at   time.Time
		body string
		code string
	}{
		"another key":         {aws.Credentials{AccessKeyID: "AKIAOTHER", SecretAccessKey: "base"}, now, assume, "InvalidClientTokenId"},
		"another secret":      {aws.Credentials{AccessKeyID: "AKIABASE", SecretAccessKey: "x"}, now, assume, "SignatureDoesNotMatch"},
		"another time":        {base, now.Add(6 * time.Minute), assume, "SignatureDoesNotMatch"},
		"another external ID": {base, now, strings.Replace(assume, "ExternalId=ext", "ExternalId=x", 1), "AccessDenied"},
		"no external ID":      {base, now, strings.Replace(assume, "&ExternalId=ext", "", 1), "AccessDenied"},
		"another role":        {base, now, strings.Replace(assume, "reader", "admin", 1), "AccessDenied"},
		"too long":            {base, now, strings.Replace(assume, "=900", "=7200", 1), "ValidationError"},
		"no such identity":    {base, now, "Action=AssumeRoleWithWebIdentity&WebIdentityToken=", "InvalidIdentityToken"},
		"another action":      {base, now, "Action=GetSessionToken", "InvalidAction"},
	} {
		if status, body := ask(s, request(tt.keys, tt.at, stsURL, "", tt.body)); status < 400 || between(body, "Code") != tt.code {
			t.Errorf("%s: HTTP %d: %s", name, status, body)
		}
	}
	r := request(base, now, stsURL, "", assume)
	r.Header.Del("Authorization")
	if status, body := ask(s, r); status != 403 || between(body, "Code") != "MissingAuthenticationToken" {
		t.Errorf("unsigned: HTTP %d: %s", status, body)
	}
}

func TestReads(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s, _ := open(t, &now, nil)
	keys := session(t, s, now)
	other := keys
	other.SessionToken = "another"
	for name, tt := range map[string]struct {
		keys       aws.Credentials
		at         time.Time
		target, id string
		want       string
	}{
		"by name":          {keys, now, "GetSecretValue", `"db"`, `"SecretString":"one"`},
		"by ARN":           {keys, now, "GetSecretValue", `"` + arn + `-AbCdEf"`, `"ARN":"` + arn + `-AbCdEf"`},
		"by a partial ARN": {keys, now, "GetSecretValue", `"` + arn + `"`, `"SecretString":"one"`},
		"previous":         {keys, now, "GetSecretValue", `"db","VersionStage":"AWSPREVIOUS"`, `"SecretString":"old"`},
		"another version":  {keys, now, "GetSecretValue", `"db","VersionId":"x"`, "ResourceNotFoundException"},
		"another suffix":   {keys, now, "GetSecretValue", `"` + arn + `-ZZZZZZ"`, "ResourceNotFoundException"},
		"description":      {keys, now, "DescribeSecret", `"db"`, `"NextRotationDate":1893456000`},
		"no ID":            {keys, now, "GetSecretValue", `""`, "InvalidParameterException"},
		"other operation":  {keys, now, "PutSecretValue", `"db"`, "UnknownOperationException"},
		"other token":      {other, now, "GetSecretValue", `"db"`, "UnrecognizedClientException"},
		"other time":       {keys, now.Add(-6 * time.Minute), "GetSecretValue", `"db"`, "InvalidSignatureException"},
		"base credential":  {aws.Credentials{AccessKeyID: "AKIABASE", SecretAccessKey: "base"}, now, "GetSecretValue", `"db"`, "AccessDeniedException"},
	} {
		if _, body := ask(s, request(tt.keys, tt.at, smURL, "secretsmanager."+tt.target, `{"SecretId":`+tt.id+`}`)); !strings.Contains(body, tt.want) {
			t.Errorf("%s: %s, want %s", name, body, tt.want)
		}
	}
	tampered := request(keys, now, smURL, "secretsmanager.GetSecretValue", `{"SecretId":"db"}`)
	tampered.Body = http.NoBody
	if _, body := ask(s, tampered); !strings.Contains(body, "InvalidSignatureException") {
		t.Errorf("a body that was not signed: %s", body)
	}
	now = now.Add(15 * time.Minute)
	if _, body := ask(s, request(keys, now, smURL, "secretsmanager.GetSecretValue", `{"SecretId":"db"}`)); !strings.Contains(body, "ExpiredTokenException") {
		t.Errorf("after the session's end: %s", body)
	}
}

// TestFile: the file may be edited while the Server runs. Invalid content changes nothing, is
// logged once, and no message quotes it.
func TestFile(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var log bytes.Buffer
	s, path := open(t, &now, slog.New(slog.NewTextHandler(&log, nil)))
	keys := session(t, s, now)
	want := func(value string) {
		t.Helper()
		if _, body := ask(s, request(keys, now, smURL, "secretsmanager.GetSecretValue", `{"SecretId":"db"}`)); !strings.Contains(body, `"`+value+`"`) {
			t.Errorf("got %s, want %s", body, value)
		}
	}
	want("one")
	write(t, path, strings.Replace(content, "VALUE", "two", 1))
	want("two")
	for _, broken := range []string{
		"", "\n\ttr0ub4dor", "{tr0ub4dor: 1}", "{regions: {r: }}", strings.Replace(content, "VALUE", "[tr0ub4dor]", 1), strings.Replace(content, "VALUE", `""`, 1),
		strings.Replace(content, "value: VALUE", `value: "%tr0ub4dor", base64: true`, 1), strings.Replace(content, "AbCdEf", "AbC", 1),
		strings.Replace(content, "delay: 1ms", "fault: tr0ub4dor", 1), strings.Replace(content, "{db:", `{"d b":`, 1),
	} {
		log.Reset()
		write(t, path, broken)
		want("two")
		want("two")
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 || strings.Contains(log.String(), "tr0ub4dor") {
			t.Errorf("%q: logged %d times: %s", broken, n, log.String())
		}
		if _, err := secretsmanager.Open(secretsmanager.Config{Path: path}); err == nil || strings.Contains(err.Error(), "tr0ub4dor") {
			t.Errorf("%q: opened with %v", broken, err)
		}
	}
}
