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

// The faults that a vault can be told to have.
const (
	faultThrottled   = "throttled"
	faultForbidden   = "forbidden"
	faultUnavailable = "unavailable"
)

// maxValue is the most bytes that Key Vault takes as a secret's value.
const maxValue = 25 << 10

// vaultName is Key Vault's rule for the names of vaults, in lower case; the
// length, 3 to 24, comes on top.
var vaultName = regexp.MustCompile(`^[a-z](-?[0-9a-z])+$`)

// vault is the state of one vault; immutable.
type vault struct {
	fault             string // one of the fault constants, or empty
	retryAfter, delay time.Duration
	modified          time.Time
	secrets           map[string]*entry // by name in lower case
}

// entry is a secret with all its versions, the newest first.
type entry struct {
	name     string // as it is spelt in the file
	deleted  bool
	versions []version
}

type version struct {
	id                 string
	value, contentType string
	enabled            bool
	notBefore, expires time.Time
}

// The file's layout; see Config.SecretsFile.
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

// checkState returns the vaults of a document that was written at modified. The error
// joins every fault and quotes no value.
func checkState(doc *fileDoc, modified time.Time) (map[string]*vault, error) {
	var f faults
	vaults := make(map[string]*vault, len(doc.Vaults))
	for _, name := range slices.Sorted(maps.Keys(doc.Vaults)) {
		if len(name) < 3 || len(name) > 24 || !vaultName.MatchString(name) {
			f.add("vaults", "%q is no vault's name: expected 3 to 24 lower-case letters, digits and single hyphens, beginning with a letter", name)
			continue
		}
		vaults[name] = f.vault(name, doc.Vaults[name], modified)
	}
	return vaults, errors.Join(f...)
}

// faults collects the faults of a file, each with its position.
type faults []error

func (f *faults) add(position, format string, args ...any) {
	*f = append(*f, errors.New(position+": "+fmt.Sprintf(format, args...)))
}

func (f *faults) vault(name string, in fileVault, modified time.Time) *vault {
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
			f.add(position+".secrets", "%q is no secret's name: expected 1 to 127 letters, digits and hyphens", secret)
		case v.secrets[key] != nil:
			f.add(position+".secrets", "%q is listed twice in different case; the store takes both for one", secret)
		default:
			v.secrets[key] = f.secret(position+".secrets."+secret, name, secret, in.Secrets[secret])
		}
	}
	return v
}

func (f *faults) secret(position, vault, name string, in fileSecret) *entry {
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
			f.add(at+".value", "it is %d bytes long, the most is %d", len(*ver.Value), maxValue)
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

// versionID makes a version's identifier of what the version is: reading the
// file again changes none, editing a value makes a new one, and a value that
// moves on to previous keeps its own, as it counts from the oldest.
func versionID(vault, name string, fromOldest int, value string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s", vault, strings.ToLower(name), fromOldest, value))
	return hex.EncodeToString(sum[:16])
}
