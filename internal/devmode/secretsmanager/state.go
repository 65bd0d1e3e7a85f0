package secretsmanager

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// State is the state of the fake. It must not be modified after it has been passed to New
// or Replace.
type State struct {
	Identity Identity
	// Regions are the regions of Secrets Manager, keyed by name.
	Regions map[string]*Region
	// ErrorNote is appended to the message of every error. Tests set it to a word that the
	// client must not repeat.
	ErrorNote string
}

// Identity defines the principals that may read: the sessions of a role, which an access
// key may assume.
type Identity struct {
	// SessionToken is required with the access key, if it is not empty.
	AccessKeyID, SecretAccessKey, SessionToken string
	// Reads is whether the access key may read without assuming the role.
	Reads bool
	// RoleARN is the role whose sessions may read, and ExternalID the external ID that its
	// trust policy requires. The secrets belong to the role's account.
	RoleARN, ExternalID string
	// WebIdentityToken is the token that returns a session of any role of any account. The
	// session may read, and may assume the role RoleARN. If it is empty, no token is
	// accepted.
	WebIdentityToken string
}

func (id Identity) account() string { return strings.Split(id.RoleARN+":::::", ":")[4] }

// Region is Secrets Manager in one region.
type Region struct {
	// Fault makes every read fail: "throttled" or "unavailable"; empty for none.
	Fault string `yaml:"fault"`
	// Delay is the delay before every answer.
	Delay time.Duration `yaml:"delay"`
	// Secrets are the secrets, keyed by name.
	Secrets map[string]*Secret `yaml:"secrets"`
}

// Secret is one secret.
type Secret struct {
	// Suffix is the six letters and digits after the name in the ARN.
	Suffix string `yaml:"suffix"`
	// Versions are sorted from the oldest to the newest: the last one is AWSCURRENT, the
	// one before it AWSPREVIOUS. A secret without versions has no value.
	Versions []Version `yaml:"versions"`
	// Account is the account that shares the secret; the role's account if empty.
	Account string `yaml:"-"`
	// Deleted is whether the secret is scheduled for deletion.
	Deleted bool `yaml:"deleted"`
	// Denied is whether the role has no permission to read the secret.
	Denied bool `yaml:"denied"`
	// NextRotation is the latest time of the next rotation; zero if there is none.
	NextRotation time.Time `yaml:"next_rotation"`
}

// Version is a value of a secret.
type Version struct {
	Value string `yaml:"value"`
	// Base64 is whether Value is the base64 encoding of a binary value.
	Base64 bool `yaml:"base64"`
}

var (
	secretName = regexp.MustCompile(`^[A-Za-z0-9/_+=.@!-]{1,512}$`)
	arnSuffix  = regexp.MustCompile(`^[A-Za-z0-9]{6}$`)
)

const maxValue = 65536

// check returns what is wrong with the regions, without quoting a value.
func check(regions map[string]*Region) error {
	for name, r := range regions {
		if r == nil {
			return fmt.Errorf("region %s is empty", name)
		}
		if r.Fault != "" && r.Fault != "throttled" && r.Fault != "unavailable" {
			return fmt.Errorf("region %s: fault: expected throttled or unavailable", name)
		}
		for id, s := range r.Secrets {
			if err := s.check(id); err != nil {
				return fmt.Errorf("region %s: secret %s: %w", name, id, err)
			}
		}
	}
	return nil
}

func (s *Secret) check(name string) error {
	switch {
	case s == nil:
		return errors.New("is empty")
	case !secretName.MatchString(name):
		return errors.New("the name may have only letters, digits and /_+=.@!-")
	case !arnSuffix.MatchString(s.Suffix):
		return errors.New("the suffix must be six letters and digits")
	}
	for i, v := range s.Versions {
		value := []byte(v.Value)
		if v.Base64 {
			var err error
			if value, err = base64.StdEncoding.DecodeString(v.Value); err != nil {
				return fmt.Errorf("the value of version %d is not base64", i+1)
			}
		}
		if len(value) == 0 || len(value) > maxValue {
			return fmt.Errorf("the value of version %d must have 1 to %d bytes", i+1, maxValue)
		}
	}
	return nil
}

// VersionID returns the ID, a UUID, of the version of a secret with that index and that value
// as in the file. It depends on the value, so that a value that is edited in place is another
// version.
func VersionID(name string, index int, value string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s#%d#%s", name, index, value))
	id := hex.EncodeToString(h[:16])
	return id[:8] + "-" + id[8:12] + "-4" + id[13:16] + "-a" + id[17:20] + "-" + id[20:]
}

// currentID returns the ID of the current version, "" without one.
func (s *Secret) currentID(name string) string {
	if s == nil || len(s.Versions) == 0 {
		return ""
	}
	last := len(s.Versions) - 1
	return VersionID(name, last, s.Versions[last].Value)
}

// stages returns the staging labels of the version with an index.
func (s *Secret) stages(index int) []string {
	switch index {
	case len(s.Versions) - 1:
		return []string{"AWSCURRENT"}
	case len(s.Versions) - 2:
		return []string{"AWSPREVIOUS"}
	default:
		return nil
	}
}
