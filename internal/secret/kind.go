package secret

import "slices"

// Kind is a kind of secret store, spelled as in the secret.manager property of a
// connector's configuration and in an integration's file.
type Kind string

// The kinds of stores.
const (
	// KindAzureKeyVault is Azure Key Vault, in the public and the sovereign clouds.
	KindAzureKeyVault Kind = "AZURE_KEY_VAULT"
	// KindAWSSecretsManager is AWS Secrets Manager, in all partitions.
	KindAWSSecretsManager Kind = "AWS_SECRETS_MANAGER"
	// KindGCPSecretManager is Google Cloud's Secret Manager, global and regional.
	KindGCPSecretManager Kind = "GCP_SECRET_MANAGER"
	// KindHashiCorpVault is HashiCorp Vault, and OpenBao, which speaks its protocol.
	KindHashiCorpVault Kind = "HASHICORP_VAULT"
	// KindLocalFile is files and environment variables on the broker's machine.
	KindLocalFile Kind = "LOCAL_FILE"
)

// Kinds returns all kinds, in the order in which messages list them.
func Kinds() []Kind {
	return []Kind{KindAzureKeyVault, KindAWSSecretsManager, KindGCPSecretManager, KindHashiCorpVault, KindLocalFile}
}

// Known reports whether k is one of Kinds.
func (k Kind) Known() bool { return slices.Contains(Kinds(), k) }

// spelling describes how references to one kind of store are written. The errors
// of its functions never quote the input.
type spelling struct {
	// form and example show users the expected form.
	form, example string
	// parseStore returns the canonical form of a store's address.
	parseStore func(s string) (string, error)
	// fold returns a name in the form in which the store compares names.
	fold func(name string) string
	// validNamePart reports whether text can be part of a name.
	validNamePart func(text string) bool
}

const generalForm = "<store>::<secret>[#<version>][?decode=base64][::<json key>]"

// spelling returns the spelling of k. For an unknown kind it has a form and an
// example, but no functions.
func (k Kind) spelling() spelling {
	switch k {
	case KindAzureKeyVault:
		return spelling{generalForm, refExample, ParseAzureVault, lower, isAzureNamePart}
	case KindAWSSecretsManager:
		return spelling{"<ARN>[#<version>][?decode=base64][::<json key>]", awsExample, parseAWSStore, verbatim, isAWSNamePart}
	case KindGCPSecretManager:
		return spelling{"projects/<project>/secrets/<secret>[#<version>][?decode=base64][::<json key>]", gcpExample, parseGCPStore, verbatim, isGCPNamePart}
	case KindHashiCorpVault:
		return spelling{"https://<host>:<port>::<mount>/<path>[#<version>][?decode=base64][::<field>]", vaultExample, ParseVaultAddress, verbatim, isVaultNamePart}
	case KindLocalFile:
		return spelling{"file://<directory>::<file>[?decode=base64][::<key>]", localExample, ParseLocalStore, verbatim, isLocalNamePart}
	default:
		return spelling{form: generalForm, example: refExample}
	}
}

// parse replaces Store, Name, Suffix and Version of r by their canonical forms. On
// entry, Store, Name and Version are as written in the reference; if this kind
// writes store and secret as one part, Store is empty and Name contains both.
// fault describes what is wrong, without quoting the input.
//
// parse is not a field of spelling: a Ref whose address is passed through a func
// value escapes to the heap.
func (k Kind) parse(r *Ref) (fault string) {
	switch k {
	case KindAzureKeyVault:
		return parseAzure(r)
	case KindAWSSecretsManager:
		return parseAWS(r)
	case KindGCPSecretManager:
		return parseGCP(r)
	case KindHashiCorpVault:
		return parseVault(r)
	case KindLocalFile:
		return parseLocal(r)
	default:
		return "this broker does not support its kind of store"
	}
}

// verbatim returns name unchanged, for stores that compare names byte by byte.
func verbatim(name string) string { return name }

// FoldName returns s in the form in which stores of this kind compare secret names:
// in lower case for Key Vault, which ignores case, and unchanged for all others.
func (k Kind) FoldName(s string) string {
	if fold := k.spelling().fold; fold != nil {
		return fold(s)
	}
	return s
}

// ValidNamePart reports whether s can be part of a secret's name in stores of this
// kind. Policies use it to reject patterns that could never match.
func (k Kind) ValidNamePart(s string) bool {
	valid := k.spelling().validNamePart
	return valid != nil && valid(s)
}

// ParseStore returns the canonical form of the address of a store of this kind, as
// in Ref.Store. The error is an *Error with ReasonInvalidReference that does not
// quote s.
func (k Kind) ParseStore(s string) (string, error) {
	parse := k.spelling().parseStore
	if parse == nil {
		return "", Errorf(ReasonInvalidReference, "this broker does not support this kind of store")
	}
	return parse(s)
}
