package secret

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind names a sort of secret store, spelt as in Confluent's secret.manager
// property and in an integration's file.
type Kind string

// KindAzureKeyVault is Azure Key Vault, in the public and the sovereign clouds.
const KindAzureKeyVault Kind = "AZURE_KEY_VAULT"

// MaxRefLen is the longest reference that can be parsed, in bytes. The longest
// meaningful ones are a few hundred bytes; JSON keys may be longer than names.
const MaxRefLen = 8192

// refExample is the correct example that every rejection ends with.
const refExample = "https://my-vault.vault.azure.net::db-secret::password"

// Ref is a parsed reference, in the canonical form that policy and cache
// compare: two references that the store takes for the same secret are equal.
// A Ref is only ever made by ParseRef.
type Ref struct {
	// Kind is the sort of store, as recognised from Store.
	Kind Kind
	// Store is the canonical store, for Key Vault "https://NAME.SUFFIX" in lower
	// case, without port or trailing slash.
	Store string
	// Name is the secret's canonical name; Key Vault compares names without
	// case, so it is in lower case.
	Name string
	// Version is the store's version identifier, empty for the current one.
	Version string
	// Decoding is applied to what the reference selects.
	Decoding Decoding
	// Key is the literal name of a top-level member of the secret's JSON
	// document. It is compared byte by byte. Empty means the whole secret.
	Key string
}

// ParseRef parses
//
//	<store>::<secret name>[#<version>][?decode=base64][::<json key>]
//
// It splits on "::" into at most three parts, so the key keeps any further
// "::". The error is an *Error with ReasonInvalidReference whose text never
// quotes s: what stands there by mistake may well be the password itself.
func ParseRef(s string) (Ref, error) {
	if len(s) > MaxRefLen {
		return Ref{}, badRef(fmt.Sprintf("it is %d bytes long, the most is %d", len(s), MaxRefLen))
	}
	if fault := checkText(s); fault != "" {
		return Ref{}, badRef(fault)
	}
	store, rest, ok := strings.Cut(s, "::")
	if !ok {
		return Ref{}, badRef(`it has no "::" between the store and the secret's name`)
	}
	name, key, hasKey := strings.Cut(rest, "::")
	if hasKey && key == "" {
		return Ref{}, badRef(`the JSON key after the second "::" is empty; leave out the "::" to take the whole secret`)
	}
	name, option, hasOption := strings.Cut(name, "?")
	decoding, ok := parseDecoding(option)
	if hasOption && (!ok || option == "") {
		return Ref{}, badRef(`after "?" in the second part only decode=base64 may stand`)
	}
	name, version, hasVersion := strings.Cut(name, "#")
	if hasVersion && version == "" {
		return Ref{}, badRef(`the version after "#" is empty; leave out the "#" to take the current version`)
	}
	if name == "" {
		return Ref{}, badRef(`the secret's name after the first "::" is empty`)
	}
	ref, err := parseAzure(store, name, version, key)
	if err != nil {
		return Ref{}, err
	}
	ref.Decoding = decoding
	return ref, nil
}

// Secret returns r without what only concerns the caller, key and decoding: what
// has to be read from the store.
func (r Ref) Secret() Ref {
	r.Key, r.Decoding = "", ""
	return r
}

// String returns the canonical reference. ParseRef of it gives the same Ref.
func (r Ref) String() string {
	var b strings.Builder
	b.Grow(len(r.Store) + len(r.Name) + len(r.Version) + len(r.Key) + 20)
	b.WriteString(r.Store)
	b.WriteString("::")
	b.WriteString(r.Name)
	if r.Version != "" {
		b.WriteByte('#')
		b.WriteString(r.Version)
	}
	if r.Decoding != "" {
		b.WriteString("?decode=")
		b.WriteString(string(r.Decoding))
	}
	if r.Key != "" {
		b.WriteString("::")
		b.WriteString(r.Key)
	}
	return b.String()
}

// IsString reports whether r.String() is s, without making a string.
func (r Ref) IsString(s string) bool {
	ok := cut(&s, r.Store) && cut(&s, "::") && cut(&s, r.Name)
	if r.Version != "" {
		ok = ok && cut(&s, "#") && cut(&s, r.Version)
	}
	if r.Decoding != "" {
		ok = ok && cut(&s, "?decode=") && cut(&s, string(r.Decoding))
	}
	if r.Key != "" {
		ok = ok && cut(&s, "::") && cut(&s, r.Key)
	}
	return ok && s == ""
}

func cut(s *string, prefix string) (ok bool) {
	*s, ok = strings.CutPrefix(*s, prefix)
	return ok
}

// checkText refuses what no reference may contain anywhere; fault says what and
// where, or nothing. Control characters include those of U+0080 to U+009F,
// which move a terminal's cursor as well as the ASCII ones do.
func checkText(s string) (fault string) {
	plain := 0
	for plain < len(s) && ' ' <= s[plain] && s[plain] <= '~' {
		plain++
	}
	if plain == len(s) { // as nearly all are
		return ""
	}
	for i, r := range s {
		if unicode.IsControl(r) {
			return fmt.Sprintf("there is a control character at byte %d", i+1)
		}
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			return fmt.Sprintf("byte %d is not valid UTF-8", i+1)
		}
	}
	return ""
}

// badRef is the one form of every rejection. fault never quotes the input.
func badRef(fault string) *Error {
	return Errorf(ReasonInvalidReference, "not a reference: %s; expected <store>::<secret>[#<version>][?decode=base64][::<json key>], for example %s", fault, refExample)
}
