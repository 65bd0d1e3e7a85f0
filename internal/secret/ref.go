package secret

import (
	"fmt"
	"strings"
)

// MaxRefLen is the longest reference that can be parsed, in bytes. The longest
// meaningful ones are a few hundred bytes; JSON keys may be longer than names.
const MaxRefLen = 8192

// refExample is a valid reference to a secret in Azure Key Vault. Rejections of
// references whose kind is unknown show it as well.
const refExample = "https://my-vault.vault.azure.net::db-secret::password"

// Ref is a parsed reference in the canonical form that policy and cache compare:
// two equal Refs name the same secret in the store. Only ParseRef creates a Ref.
type Ref struct {
	// Kind is the kind of store, derived from the beginning of the reference.
	Kind Kind
	// Store is the canonical address of the store:
	//
	//	AZURE_KEY_VAULT      https://NAME.SUFFIX
	//	AWS_SECRETS_MANAGER  arn:PARTITION:secretsmanager:REGION:ACCOUNT, or the
	//	                     endpoint, https://secretsmanager.REGION.amazonaws.com
	//	GCP_SECRET_MANAGER   projects/P, or projects/P/locations/L
	//	HASHICORP_VAULT      https://HOST[:PORT]
	//	LOCAL_FILE           file:///DIRECTORY, or env
	Store string
	// Name is the secret's name in the form in which the store compares names: in
	// lower case for Key Vault, as written for all others. For an ARN it excludes
	// Suffix; for HashiCorp Vault it is MOUNT/PATH; for a directory it is the path
	// below the directory.
	Name string
	// Suffix is the six characters that AWS appends to a secret's name in its ARN,
	// empty for every other form. It distinguishes a secret from a deleted one that
	// had the same name. Policies ignore it.
	Suffix string
	// Version is the store's version identifier, empty for the current version.
	Version string
	// Decoding is applied to the value that the reference selects.
	Decoding Decoding
	// Key is the literal name of a top-level member of the secret's JSON
	// document. It is compared byte by byte. Empty means the whole secret.
	Key string
}

// ParseRef parses
//
//	<store>::<secret name>[#<version>][?<options>][::<json key>]
//
// and, for kinds that name the store and the secret in one part,
//
//	arn:...[#<version>][?<options>][::<json key>]
//	projects/...[#<version>][?<options>][::<json key>]
//
// The options may also precede the version, as in a URL's query and fragment. See
// parseOptions.
//
// It splits s at "::" into at most three parts, or two for the latter forms, so
// the key may contain "::". The error is an *Error with ReasonInvalidReference. Its
// text never quotes s, because s may be a password that was pasted by mistake.
func ParseRef(s string) (ref Ref, err error) {
	if len(s) > MaxRefLen {
		return Ref{}, badRef("", fmt.Sprintf("it is %d bytes long; the maximum is %d", len(s), MaxRefLen))
	}
	if fault := checkText(s); fault != "" {
		return Ref{}, badRef("", fault)
	}
	if fault := ref.parse(s); fault != "" {
		return Ref{}, badRef(ref.Kind, fault)
	}
	return ref, nil
}

// parse fills in r, which must be zero, from s, which must have passed checkText.
// If it returns a fault, only r.Kind is valid: the kind that s appears to be of,
// or "" if it cannot be determined.
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

// splitName splits s, the part of a reference after the store, into name, version,
// decoding and key, and keeps them as written. If whole is set, s is the complete
// reference and the name includes the store.
func (r *Ref) splitName(s string, whole bool) (fault string) {
	part := "second"
	if whole {
		part = "first"
	}
	name, key, hasKey := cutColons(s)
	if hasKey && key == "" {
		if whole && r.Kind == KindAWSSecretsManager && isECSForm(name) {
			return ecsFault
		}
		return `the JSON key after the ` + part + ` "::" is empty; leave out the "::" to select the whole secret`
	}
	r.Key = key
	if r.Name, fault = r.splitVersion(name); fault != "" {
		return fault
	}
	if r.Name == "" {
		return `the secret's name after the first "::" is empty`
	}
	return ""
}

// splitVersion returns s without the version and the options that follow the name, and
// sets Version and Decoding. The two follow the name in either order: String writes
// <name>#<version>?<options>, and libraries for URLs write <name>?<options>#<version>.
func (r *Ref) splitVersion(s string) (name, fault string) {
	hash, query := strings.IndexByte(s, '#'), strings.IndexByte(s, '?')
	hasVersion, hasOptions := hash >= 0, query >= 0
	var version, options string
	switch {
	case !hasVersion && !hasOptions:
		return s, ""
	case !hasOptions:
		name, version = s[:hash], s[hash+1:]
	case !hasVersion:
		name, options = s[:query], s[query+1:]
	case hash < query:
		name, version, options = s[:hash], s[hash+1:query], s[query+1:]
	default:
		name, options, version = s[:query], s[query+1:hash], s[hash+1:]
	}
	if strings.Contains(version, "#") || strings.Contains(options, "#") {
		return "", `the secret's name is followed by more than one "#"; give one version`
	}
	if strings.Contains(version, "?") || strings.Contains(options, "?") {
		return "", `the secret's name is followed by more than one "?"; join options with "&"`
	}
	if hasOptions {
		if r.Decoding, fault = parseOptions(options); fault != "" {
			return "", fault
		}
	}
	if r.Version = version; hasVersion && version == "" {
		return "", `the version after "#" is empty; leave out the "#" to select the current version`
	}
	return name, ""
}

// parseOptions parses the options after "?": name=value, joined by "&", each at most once,
// in any order. Unknown options are rejected, because an option that a later version adds
// can change which value a reference selects. fault does not quote s.
func parseOptions(s string) (d Decoding, fault string) {
	for option := range strings.SplitSeq(s, "&") {
		name, value, ok := strings.Cut(option, "=")
		switch {
		case !ok || name == "" || value == "":
			return "", `an option after "?" is not written as name=value, for example decode=base64`
		case name == "key":
			return "", `the option key is reserved for a later version; write the JSON key after "::"`
		case name != "decode":
			return "", `an option after "?" is unknown; this version knows decode=base64`
		case d != "":
			return "", `the option decode is given twice`
		case value != string(DecodeBase64):
			return "", `the option decode has an unknown value; this version knows decode=base64`
		}
		d = DecodeBase64
	}
	return d, ""
}

// cutColons is strings.Cut(s, "::"), but faster for texts as short as references:
// it searches for single bytes, and starts after the scheme.
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

// wholeKindOf returns the kind of a reference that names store and secret in one
// part, or "" if s has another form.
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

// kindOf derives the kind of a store from the form of its address.
func kindOf(store string) (k Kind, fault string) {
	if host, ok := strings.CutPrefix(store, httpsScheme); ok && isAzureVaultHost(host) { // fast path
		return KindAzureKeyVault, ""
	}
	host, isURL := httpsHost(store)
	switch {
	case !isURL && isHTTP(store):
		return "", "the store is an http:// URL; only https:// is supported"
	case !isURL && isKindURL(store):
		return "", "it begins with KIND+https://, which is reserved for kinds of stores that a later version may support; this version does not know the kind"
	case !isURL && (strings.HasPrefix(store, fileScheme) || store == LocalEnvironment):
		return KindLocalFile, ""
	case !isURL:
		return "", "it must begin with https://, arn:, projects/, file:/// or env::"
	case looksAzure(host):
		return KindAzureKeyVault, ""
	case looksAWS(host):
		return KindAWSSecretsManager, ""
	case looksGCP(host):
		return "", "a Google Cloud secret is written as projects/<project>/secrets/<secret>, without a host"
	default:
		return KindHashiCorpVault, ""
	}
}

// isKindURL reports whether a store has the form KIND+https://HOST, in which the kinds of
// stores that a later version adds are written. A host alone never selects a new kind:
// every host that belongs to none of the clouds is a HashiCorp Vault server for good.
func isKindURL(store string) bool {
	kind, host, ok := strings.Cut(store, "+")
	return ok && kind != "" && isAzureText(kind) && isHTTPS(host)
}

// Secret returns r without Key and Decoding, which the broker applies after it has
// read the secret. The result is what has to be read from the store.
func (r Ref) Secret() Ref {
	r.Key, r.Decoding = "", ""
	return r
}

// IsPinned reports whether r names one version, whose content never changes. It is false
// for the current version and for a label that the store can move to another version.
func (r *Ref) IsPinned() bool {
	switch {
	case r.Version == "":
		return false
	case r.Kind == KindAWSSecretsManager:
		return IsAWSVersionID(r.Version)
	case r.Kind == KindGCPSecretManager:
		return isDigits(r.Version)
	default:
		return true
	}
}

// SameSecret reports whether r and other name the same version of the same secret:
// whether r.Secret() equals other.Secret().
func (r *Ref) SameSecret(other *Ref) bool {
	return r.Name == other.Name && r.Suffix == other.Suffix && r.Version == other.Version && r.Store == other.Store && r.Kind == other.Kind
}

// String returns the canonical reference. ParseRef(r.String()) returns r.
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

// IsString reports whether r.String() == s, without allocating.
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

// separator returns the text between store and name.
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

// FullName returns Name and Suffix as an ARN joins them, or Name if there is no
// Suffix. It identifies a secret within its store.
func (r Ref) FullName() string {
	if r.Suffix == "" {
		return r.Name
	}
	return r.Name + "-" + r.Suffix
}

// badRef returns the rejection of a reference. All rejections have this form.
// fault must not quote the input. kind is the kind that the reference appears to
// be of, or "" if it cannot be determined.
func badRef(kind Kind, fault string) *Error {
	sp := kind.spelling()
	return Errorf(ReasonInvalidReference, "not a reference: %s; expected %s, for example %s", fault, sp.form, sp.example)
}
