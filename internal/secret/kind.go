package secret

import "slices"

// Kind names a sort of secret store, spelt as in the secret.manager property of
// a connector's configuration and in an integration's file.
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
	// KindLocalFile are files and environment variables of the broker's machine.
	KindLocalFile Kind = "LOCAL_FILE"
)

// Kinds returns all kinds, in the order in which they are told to people.
func Kinds() []Kind {
	return []Kind{KindAzureKeyVault, KindAWSSecretsManager, KindGCPSecretManager, KindHashiCorpVault, KindLocalFile}
}

// Known reports whether k is one of Kinds.
func (k Kind) Known() bool { return slices.Contains(Kinds(), k) }

// spelling is how references to stores of one kind are written. What its
// functions say of a fault never quotes the input.
type spelling struct {
	// form and example say to people what was expected.
	form, example string
	// parseStore returns the canonical form of a store's address.
	parseStore func(s string) (string, error)
	// fold returns a name as the stores compare it.
	fold func(name string) string
	// validNamePart reports whether text can be part of a name.
	validNamePart func(text string) bool
}

const generalForm = "<store>::<secret>[#<version>][?decode=base64][::<json key>]"

// spelling returns the zero spelling for a Kind that is not known.
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

// parse makes Store, Name, Suffix and Version of r canonical. Before, Store, Name
// and Version are as they were written; where the kind writes store and secret as
// one part, Store is empty and Name is both. It is not in spelling because a Ref
// whose address goes through a func value would be on the heap.
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
		return "it is of no kind of store that this broker knows"
	}
}

// verbatim folds nothing: the store compares names byte by byte.
func verbatim(name string) string { return name }

// FoldName returns s as stores of this kind compare secret names: Key Vault
// without case, all others byte by byte.
func (k Kind) FoldName(s string) string {
	if fold := k.spelling().fold; fold != nil {
		return fold(s)
	}
	return s
}

// ValidNamePart reports whether s can be part of a secret's name in stores of
// this kind, so that a pattern which could never match is refused when it is
// written.
func (k Kind) ValidNamePart(s string) bool {
	valid := k.spelling().validNamePart
	return valid != nil && valid(s)
}

// ParseStore returns the canonical form of a store's address of this kind, as it
// stands in Ref.Store. The error is an *Error with ReasonInvalidReference that
// does not quote s.
func (k Kind) ParseStore(s string) (string, error) {
	parse := k.spelling().parseStore
	if parse == nil {
		return "", Errorf(ReasonInvalidReference, "not a kind of store that this broker knows")
	}
	return parse(s)
}
