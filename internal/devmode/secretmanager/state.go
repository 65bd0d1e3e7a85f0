package secretmanager

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// State is the complete state of the fake. It must not change after it was passed to a
// Server.
type State struct {
	// Projects are the projects by ID.
	Projects map[string]*Project `yaml:"projects"`
	// ServiceAccounts are the service accounts by e-mail address.
	ServiceAccounts map[string]*ServiceAccount `yaml:"service_accounts"`
	// SubjectTokens maps tokens of another identity provider to identities, such as
	// principal://iam.googleapis.com/...
	SubjectTokens map[string]string `yaml:"subject_tokens"`
	// Subscriptions are those of Pub/Sub by their resource names,
	// "projects/PROJECT/subscriptions/NAME".
	Subscriptions map[string]*Subscription `yaml:"subscriptions"`
	// Machine is the service account of the metadata server, if any.
	Machine string `yaml:"machine"`
}

// ServiceAccount is an account for which the fake issues tokens.
type ServiceAccount struct {
	// PublicKeyPEM verifies its assertions; empty if it has no key.
	PublicKeyPEM string `yaml:"public_key"`
	// TokenCreators are the identities that may impersonate it.
	TokenCreators []string `yaml:"token_creators"`
	// Disabled: the fake refuses its tokens and issues none.
	Disabled bool `yaml:"disabled"`
}

// Project is a project and its secrets.
type Project struct {
	Number string `yaml:"number"`
	// Readers are the identities that may access every secret of the project.
	Readers []string `yaml:"readers"`
	// Fault makes every access fail: throttled, unavailable, api_disabled or
	// perimeter; none if empty.
	Fault string `yaml:"fault"`
	// RetryAfter is sent with throttled and unavailable; zero is not sent.
	RetryAfter time.Duration `yaml:"retry_after"`
	// Delay is the delay before every answer.
	Delay time.Duration `yaml:"delay"`
	// Secrets are the global secrets by name, Locations the regional ones by location and
	// name.
	Secrets   map[string]*Secret            `yaml:"secrets"`
	Locations map[string]map[string]*Secret `yaml:"locations"`
}

// Secret is one secret.
type Secret struct {
	// Readers are the identities that may access this secret.
	Readers []string `yaml:"readers"`
	// Versions are numbered from 1; the newest is the last.
	Versions []Version `yaml:"versions"`
	// Aliases maps names to version numbers.
	Aliases map[string]int `yaml:"aliases"`
}

// Version is one version of a secret.
type Version struct {
	Value string `yaml:"value"`
	// Base64 reports that Value is base64 of the payload.
	Base64 bool `yaml:"base64"`
	// State is ENABLED if empty, or DISABLED or DESTROYED.
	State string `yaml:"state"`
}

// payload returns the content of the version.
func (v Version) payload() ([]byte, error) {
	if v.Base64 {
		return base64.StdEncoding.DecodeString(v.Value)
	}
	return []byte(v.Value), nil
}

func (v Version) state() string {
	if v.State == "" {
		return "ENABLED"
	}
	return v.State
}

// maxPayload is Secret Manager's limit, in bytes.
const maxPayload = 64 << 10

// check finds states that the real store cannot have. Its error quotes no value.
func (s *State) check() error {
	for id, p := range s.Projects {
		if p == nil {
			return fmt.Errorf("project %s is empty", id)
		}
		if _, err := strconv.ParseUint(p.Number, 10, 63); err != nil {
			return fmt.Errorf("project %s has no number", id)
		}
		if !slices.Contains([]string{"", "throttled", "unavailable", "api_disabled", "perimeter"}, p.Fault) {
			return fmt.Errorf("project %s: fault: expected one of throttled, unavailable, api_disabled, perimeter", id)
		}
		if err := checkSecrets(p.Secrets); err != nil {
			return fmt.Errorf("project %s: %w", id, err)
		}
		for location, secrets := range p.Locations {
			if err := checkSecrets(secrets); err != nil {
				return fmt.Errorf("project %s, location %s: %w", id, location, err)
			}
		}
	}
	return nil
}

func checkSecrets(secrets map[string]*Secret) error {
	for name, s := range secrets {
		if s == nil {
			return fmt.Errorf("secret %s is empty", name)
		}
		for i, v := range s.Versions {
			b, err := v.payload()
			switch {
			case err != nil:
				return fmt.Errorf("secret %s: version %d is not base64", name, i+1)
			case len(b) > maxPayload:
				return fmt.Errorf("secret %s: version %d is larger than %d bytes", name, i+1, maxPayload)
			case v.State != "" && v.State != "ENABLED" && v.State != "DISABLED" && v.State != "DESTROYED":
				return fmt.Errorf("secret %s: the state of version %d must be ENABLED, DISABLED or DESTROYED", name, i+1)
			}
		}
		for alias, n := range s.Aliases {
			if n < 1 || n > len(s.Versions) {
				return fmt.Errorf("secret %s: the alias %s refers to no version", name, alias)
			}
		}
	}
	return nil
}

// project returns the project with an ID or number, nil if there is none.
func (s *State) project(idOrNumber string) *Project {
	if p := s.Projects[idOrNumber]; p != nil {
		return p
	}
	for _, p := range s.Projects {
		if p.Number == idOrNumber {
			return p
		}
	}
	return nil
}

// number returns the version number for a version's name, 0 if there is none.
func (s *Secret) number(text string) int {
	if text == "latest" {
		return len(s.Versions)
	}
	if n := s.Aliases[text]; n != 0 {
		return n
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > len(s.Versions) {
		return 0
	}
	return n
}
