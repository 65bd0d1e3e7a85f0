package devmode

import (
	"bytes"
	"crypto/rand"
	"embed"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v4"

	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

//go:embed templates
var templateFiles embed.FS

// templates are the configuration files. The function "scalar" quotes a text if YAML
// requires it.
var templates = template.Must(template.New("").
	Option("missingkey=error").
	Funcs(template.FuncMap{"scalar": func(s string) (string, error) {
		b, err := yaml.Marshal(s)
		return strings.TrimSpace(string(b)), err
	}}).
	ParseFS(templateFiles, "templates/*.yaml"))

// writeSettings writes the broker's configuration. It keeps the files that the user may have
// edited: the secrets and the integration.
func (env *Environment) writeSettings(clientSecret string) error {
	data := map[string]any{
		"Env": env, "TenantID": tenantID, "ClientID": clientID, "VaultHost": sampleVaultHost, "NoRoleVaultHost": noRoleVaultHost,
		"QueueHost": keyvault.QueueHost, "QueueName": keyvault.QueueName,
	}
	if err := writeTemplate(env.SecretsFile, "secrets.yaml", data, writeIfAbsent); err != nil {
		return err
	}
	if err := writeTemplate(env.IntegrationFile, "integration.yaml", data, writeIfAbsent); err != nil {
		return err
	}
	if err := writeTemplate(env.ConfigFile, "secretbroker.yaml", data, keyfile.Replace); err != nil {
		return err
	}
	// The versions of local files stay the same when the broker starts again.
	if err := writeIfAbsent(filepath.Join(env.Dir, "version.key"), []byte(rand.Text()+rand.Text()+"\n")); err != nil {
		return err
	}
	return keyfile.Replace(env.ClientSecretFile, []byte(clientSecret+"\n"))
}

func writeTemplate(file, name string, data any, write func(string, []byte) error) error {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		return err
	}
	return write(file, b.Bytes())
}

func writeIfAbsent(file string, data []byte) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return keyfile.Replace(file, data)
}
