package devmode

import (
	"bytes"
	"crypto/rand"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// The names of the AWS samples.
const (
	AWSIntegrationID = "cspi-aws"
	AWSStore         = "https://secretsmanager." + awsRegion + ".amazonaws.com"
	AWSAccountARN    = "arn:aws:secretsmanager:" + awsRegion + ":" + awsAccount

	awsRegion     = "eu-west-1"
	awsAccount    = "123456789012"
	awsRole       = "arn:aws:iam::" + awsAccount + ":role/connect-reader"
	awsExternalID = "5d1c7a52-9c1b-4a7e-9f25-6b1e0c9d4a10"
)

// AWS is the embedded Secrets Manager and the files that belong to it.
type AWS struct {
	// IntegrationFile and SecretsFile, the Secrets Manager's content, are written once.
	// The user may edit them.
	IntegrationFile, SecretsFile string
	// AccessKeyIDFile and SecretAccessKeyFile are the broker's credential. Every Start
	// replaces it.
	AccessKeyIDFile, SecretAccessKeyFile string
	// SecretsManager gives access to its counter of reads.
	SecretsManager *secretsmanager.Server
}

// addAWS writes the files of the embedded Secrets Manager, and returns a handler that serves
// it and passes other requests to next.
func (env *Environment) addAWS(opts Options, next http.Handler) (http.Handler, error) {
	a := &AWS{
		IntegrationFile:     filepath.Join(filepath.Dir(env.IntegrationFile), AWSIntegrationID+".yaml"),
		SecretsFile:         filepath.Join(env.Dir, "aws-secrets.yaml"),
		AccessKeyIDFile:     filepath.Join(env.Dir, "aws-access-key-id.txt"),
		SecretAccessKeyFile: filepath.Join(env.Dir, "aws-secret-access-key.txt"),
	}
	env.AWS = a
	data := map[string]any{"Env": env, "ID": AWSIntegrationID, "Region": awsRegion, "Account": awsAccount, "Queue": secretsmanager.QueueName, "Role": awsRole, "ExternalID": awsExternalID}
	if err := writeTemplate(a.SecretsFile, "aws-secrets.yaml", data, writeIfAbsent); err != nil {
		return nil, err
	}
	if err := writeTemplate(a.IntegrationFile, "aws-integration.yaml", data, writeIfAbsent); err != nil {
		return nil, err
	}
	if text, err := os.ReadFile(a.IntegrationFile); err == nil && !bytes.Contains(text, []byte(env.VaultListen)) {
		opts.Logger.Warn("the integration with the embedded Secrets Manager dials another address; change aws.dial, or delete the file to have it recreated",
			"file", a.IntegrationFile, "address", env.VaultListen)
	}
	id := secretsmanager.Identity{AccessKeyID: "AKIA" + rand.Text()[:16], SecretAccessKey: rand.Text() + rand.Text(), RoleARN: awsRole, ExternalID: awsExternalID}
	if err := keyfile.Replace(a.AccessKeyIDFile, []byte(id.AccessKeyID+"\n")); err != nil {
		return nil, err
	}
	if err := keyfile.Replace(a.SecretAccessKeyFile, []byte(id.SecretAccessKey+"\n")); err != nil {
		return nil, err
	}
	var err error
	a.SecretsManager, err = secretsmanager.Open(secretsmanager.Config{Path: a.SecretsFile, Identity: id, Logger: opts.Logger, Now: opts.Now})
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if strings.HasSuffix(strings.ToLower(host), ".amazonaws.com") {
			a.SecretsManager.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	}), nil
}
