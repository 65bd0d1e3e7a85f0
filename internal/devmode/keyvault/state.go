package keyvault

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The faults that a vault can simulate.
const (
	faultThrottled   = "throttled"
	faultForbidden   = "forbidden"
	faultUnavailable = "unavailable"
)

// maxValue is the maximum size of a secret's value in Key Vault, in bytes.
const maxValue = 25 << 10

// vaultName is Key Vault's rule for vault names, in lower case, without the length (3 to
// 24).
var vaultName = regexp.MustCompile(`^[a-z](-?[0-9a-z])+$`)

// vault is the state of a vault; immutable.
type vault struct {
	fault             string // one of the fault constants, or empty
	retryAfter, delay time.Duration
	modified          time.Time
	secrets           map[string]*entry // by lower-case name
}

// entry is a secret with all its versions, the newest first.
type entry struct {
	name     string // as spelled in the file
	deleted  bool
	versions []version
}

type version struct {
	id                 string
	value, contentType string
	enabled            bool
	notBefore, expires time.Time
}

// The layout of the file; see Config.SecretsFile.
type (
	fileDoc struct {
		Vaults map[string]fileVault `yaml:"vaults"`
	}
	fileVault struct {
		Fault      string                `yaml:"fault"`
		RetryAfter time.Duration         `yaml:"retry_after"`
		Delay      time.Duration         `yaml:"delay"`
		Secrets    map[string]fileSecret `yaml:"secrets"`
	}
	fileSecret struct {
		fileVersion `yaml:",inline"`
		Deleted     bool          `yaml:"deleted"`
		Previous    []fileVersion `yaml:"previous"`
	}
	fileVersion struct {
		Value       *string   `yaml:"value"`
		ContentType string    `yaml:"content_type"`
		Enabled     *bool     `yaml:"enabled"`
		NotBefore   time.Time `yaml:"not_before"`
		Expires     time.Time `yaml:"expires"`
	}
)

// checkState returns the vaults of a document that was written at modified. The error joins
// all problems and quotes no value.
func checkState(doc *fileDoc, modified time.Time) (map[string]*vault, error) {
	var f problems
	vaults := make(map[string]*vault, len(doc.Vaults))
	for _, name := range slices.Sorted(maps.Keys(doc.Vaults)) {
		if len(name) < 3 || len(name) > 24 || !vaultName.MatchString(name) {
			f.add("vaults", "%q is not a valid vault name: expected 3 to 24 lower-case letters, digits and single hyphens, beginning with a letter", name)
			continue
		}
		vaults[name] = f.vault(name, doc.Vaults[name], modified)
	}
	return vaults, errors.Join(f...)
}

// problems collects the problems of a file, each with its position.
type problems []error

func (f *problems) add(position, format string, args ...any) {
	*f = append(*f, errors.New(position+": "+fmt.Sprintf(format, args...)))
}

func (f *problems) vault(name string, in fileVault, modified time.Time) *vault {
	position := "vaults." + name
	switch in.Fault {
	case "", faultThrottled, faultForbidden, faultUnavailable:
	default:
		f.add(position+".fault", "expected %s, %s or %s", faultThrottled, faultForbidden, faultUnavailable)
	}
	if in.RetryAfter < 0 || in.RetryAfter > 0 && in.Fault != faultThrottled && in.Fault != faultUnavailable {
		f.add(position+".retry_after", "expected a positive time, and a fault that is %s or %s", faultThrottled, faultUnavailable)
	}
	if in.Delay < 0 {
		f.add(position+".delay", "expected a positive time")
	}
	v := &vault{fault: in.Fault, retryAfter: in.RetryAfter, delay: in.Delay, modified: modified, secrets: make(map[string]*entry, len(in.Secrets))}
	for _, secret := range slices.Sorted(maps.Keys(in.Secrets)) {
		key := strings.ToLower(secret)
		switch {
		case !secretName.MatchString(secret):
			f.add(position+".secrets", "%q is not a valid secret name: expected 1 to 127 letters, digits and hyphens", secret)
		case v.secrets[key] != nil:
			f.add(position+".secrets", "%q is listed twice in different case; the store ignores case", secret)
		default:
			v.secrets[key] = f.secret(position+".secrets."+secret, name, secret, in.Secrets[secret])
		}
	}
	return v
}

func (f *problems) secret(position, vault, name string, in fileSecret) *entry {
	e := &entry{name: name, deleted: in.Deleted}
	for i, ver := range slices.Concat([]fileVersion{in.fileVersion}, in.Previous) {
		at := position
		if i > 0 {
			at = fmt.Sprintf("%s.previous[%d]", position, i-1)
		}
		if ver.Value == nil {
			f.add(at, "value is missing")
			continue
		}
		if len(*ver.Value) > maxValue {
			f.add(at+".value", "it is %d bytes long, the maximum is %d", len(*ver.Value), maxValue)
		}
		e.versions = append(e.versions, version{
			id:          versionID(vault, name, len(in.Previous)-i, *ver.Value),
			value:       *ver.Value,
			contentType: ver.ContentType,
			enabled:     ver.Enabled == nil || *ver.Enabled,
			notBefore:   ver.NotBefore,
			expires:     ver.Expires,
		})
	}
	return e
}

// versionID derives a version's identifier from its content: reading the file again changes
// no identifier, editing a value makes a new one, and a value that moves to previous keeps
// its own, because positions are counted from the oldest version.
func versionID(vault, name string, fromOldest int, value string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s", vault, strings.ToLower(name), fromOldest, value))
	return hex.EncodeToString(sum[:16])
}

// VersionID returns the identifier of the version of a secret that has no previous versions
// in the file.
func VersionID(vault, name, value string) string { return versionID(vault, name, 0, value) }
