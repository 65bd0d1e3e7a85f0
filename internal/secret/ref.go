package secret

import (
	"fmt"
	"strings"
)

// MaxRefLen is the longest reference that can be parsed, in bytes. The longest
// meaningful ones are a few hundred bytes; JSON keys may be longer than names.
const MaxRefLen = 8192

// refExample is the correct example that every rejection ends with.
const refExample = "https://my-vault.vault.azure.net::db-secret::password"

// Ref is a parsed reference, in the canonical form that policy and cache
// compare: two references that are equal are the same secret to the store. A Ref
// is only ever made by ParseRef.
type Ref struct {
	// Kind is the sort of store, as recognised from the reference's beginning.
	Kind Kind
	// Store is the canonical store:
	//
	//	AZURE_KEY_VAULT      https://NAME.SUFFIX
	//	AWS_SECRETS_MANAGER  arn:PARTITION:secretsmanager:REGION:ACCOUNT, or the
	//	                     endpoint, https://secretsmanager.REGION.amazonaws.com
	//	GCP_SECRET_MANAGER   projects/P, or projects/P/locations/L
	//	HASHICORP_VAULT      https://HOST[:PORT]
	//	LOCAL_FILE           file:///DIRECTORY, or env
	Store string
	// Name is the secret's name as the store compares it: Key Vault without case,
	// so it is in lower case, all others byte by byte. Of an ARN it is without
	// Suffix; of a Vault it is MOUNT/PATH; of a directory the path below it.
	Name string
	// Suffix are the six characters that AWS puts behind a secret's name in its
	// ARN, empty for every other form. They tell a secret from one of the same
	// name that was there before. Policies do not look at them.
	Suffix string
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
// and, for stores that write themselves and the secret as one name,
//
//	arn:...[#<version>][?decode=base64][::<json key>]
//	projects/...[#<version>][?decode=base64][::<json key>]
//
// It splits on "::" into at most three parts, or two, so the key keeps any
// further "::". The error is an *Error with ReasonInvalidReference whose text
// never quotes s: what stands there by mistake may well be the password itself.
func ParseRef(s string) (ref Ref, err error) {
	if len(s) > MaxRefLen {
		return Ref{}, badRef("", fmt.Sprintf("it is %d bytes long, the most is %d", len(s), MaxRefLen))
	}
	if fault := checkText(s); fault != "" {
		return Ref{}, badRef("", fault)
	}
	if fault := ref.parse(s); fault != "" {
		return Ref{}, badRef(ref.Kind, fault)
	}
	return ref, nil
}

// parse makes r, which is zero, what s says, which has passed checkText. With a
// fault only Kind means anything: what s seems to be of, "" if nobody can tell.
func (r *Ref) parse(s string) (fault string) {
	rest, whole := s, true
	if r.Kind = wholeKindOf(s); r.Kind == "" {
		whole = false
		var ok bool
		if r.Store, rest, ok = cutColons(s); !ok {
			return `it has no "::" between the store and the secret's name`
		}
		if r.Kind, fault = kindOf(r.Store); fault != "" {
			return fault
		}
	}
	if fault = r.splitName(rest, whole); fault != "" {
		return fault
	}
	return r.Kind.parse(r)
}

// splitName takes apart what follows the store; of a whole name, everything. It
// leaves the parts as they were written.
func (r *Ref) splitName(s string, whole bool) (fault string) {
	part := "second"
	if whole {
		part = "first"
	}
	name, key, hasKey := cutColons(s)
	if hasKey && key == "" {
		return `the JSON key after the ` + part + ` "::" is empty; leave out the "::" to take the whole secret`
	}
	r.Key = key
	if i := strings.IndexByte(name, '?'); i >= 0 {
		var ok bool
		if r.Decoding, ok = parseDecoding(name[i+1:]); !ok {
			return `after "?" in the ` + part + ` part only decode=base64 may stand`
		}
		name = name[:i]
	}
	if i := strings.IndexByte(name, '#'); i >= 0 {
		if r.Version = name[i+1:]; r.Version == "" {
			return `the version after "#" is empty; leave out the "#" to take the current version`
		}
		name = name[:i]
	}
	if r.Name = name; name == "" {
		return `the secret's name after the first "::" is empty`
	}
	return ""
}

// cutColons is strings.Cut(s, "::"). In texts as short as references are, one byte
// is found sooner than two, and a scheme's colon need not be looked at.
func cutColons(s string) (before, after string, found bool) {
	i := 0
	if strings.HasPrefix(s, httpsScheme) {
		i = len(httpsScheme)
	}
	for ; ; i++ {
		next := strings.IndexByte(s[i:], ':')
		if next < 0 {
			return s, "", false
		}
		if i += next; strings.HasPrefix(s[i:], "::") {
			return s[:i], s[i+2:], true
		}
	}
}

// wholeKindOf returns the kind of a reference that has store and secret in one
// part, "" if s is none.
func wholeKindOf(s string) Kind {
	switch {
	case strings.HasPrefix(s, "arn:"):
		return KindAWSSecretsManager
	case strings.HasPrefix(s, "projects/"):
		return KindGCPSecretManager
	default:
		return ""
	}
}

// kindOf returns the kind of a store by the shape of its address.
func kindOf(store string) (k Kind, fault string) {
	if host, ok := strings.CutPrefix(store, httpsScheme); ok && isAzureVaultHost(host) { // as most are
		return KindAzureKeyVault, ""
	}
	host, isURL := httpsHost(store)
	switch {
	case !isURL && isHTTP(store):
		return "", "the store is an http:// URL; stores are reached by https:// only"
	case !isURL && (strings.HasPrefix(store, fileScheme) || store == LocalEnvironment):
		return KindLocalFile, ""
	case !isURL:
		return "", "it begins with none of https://, arn:, projects/, file:/// and env::"
	case looksAzure(host):
		return KindAzureKeyVault, ""
	case looksAWS(host):
		return KindAWSSecretsManager, ""
	case looksGCP(host):
		return "", "secrets of Google Cloud are written projects/<project>/secrets/<secret>, without a host"
	default:
		return KindHashiCorpVault, ""
	}
}

// Secret returns r without what only concerns the caller, key and decoding: what
// has to be read from the store.
func (r Ref) Secret() Ref {
	r.Key, r.Decoding = "", ""
	return r
}

// SameSecret reports whether both name the same secret and version: whether Secret
// of both is the same.
func (r *Ref) SameSecret(other *Ref) bool {
	return r.Name == other.Name && r.Suffix == other.Suffix && r.Version == other.Version && r.Store == other.Store && r.Kind == other.Kind
}

// String returns the canonical reference. ParseRef of it gives the same Ref.
func (r Ref) String() string {
	var b strings.Builder
	b.Grow(len(r.Store) + len(r.Name) + len(r.Suffix) + len(r.Version) + len(r.Key) + 32)
	b.WriteString(r.Store)
	b.WriteString(r.separator())
	b.WriteString(r.FullName())
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
	ok := cut(&s, r.Store) && cut(&s, r.separator()) && cut(&s, r.Name)
	if r.Suffix != "" {
		ok = ok && cut(&s, "-") && cut(&s, r.Suffix)
	}
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

// separator is what stands between store and name.
func (r Ref) separator() string {
	switch {
	case r.Suffix != "":
		return ":secret:"
	case r.Kind == KindGCPSecretManager:
		return "/secrets/"
	default:
		return "::"
	}
}

// FullName is Name and Suffix as they stand in an ARN: what tells apart the
// secrets of one store. Without a Suffix it is Name.
func (r Ref) FullName() string {
	if r.Suffix == "" {
		return r.Name
	}
	return r.Name + "-" + r.Suffix
}

// badRef is the one form of every rejection. fault never quotes the input; kind
// is what the reference seems to be of, "" if nobody can tell.
func badRef(kind Kind, fault string) *Error {
	sp := kind.spelling()
	return Errorf(ReasonInvalidReference, "not a reference: %s; expected %s, for example %s", fault, sp.form, sp.example)
}
