// Package keyvault is an in-process fake of two things that a broker talks to:
// the part of Azure Key Vault's data plane that reads secrets, and the part of
// Microsoft Entra ID that issues tokens for it. It exists for development and
// tests, and a test that passes against it proves nothing about the real store.
//
// It is honest about what a client can see: the 401 challenge, opaque bearer
// tokens with an expiry, canonical identifiers, names without case, and the
// status, code, inner code and message of each failure. The real azsecrets and
// azidentity clients work against it with challenge verification on, as long as
// a vault is addressed by its own name, https://NAME.vault.azure.net without a
// port, and the client's transport dials the fake instead.
//
// The content of the vaults is a YAML file that may be edited while the fake
// runs; see Config.SecretsFile.
//
// Where it deviates from the real store:
//   - It reads secrets and nothing else: no writing, listing, keys,
//     certificates, deleted secrets or firewall.
//   - Every token opens every vault of the file; roles are simulated by a
//     vault's fault setting alone. Nothing is throttled of itself.
//   - The signature of a client assertion (a certificate credential, a federated
//     token) is NOT verified: a client that names the client ID is let in.
//   - A token that has expired and one that was never issued look the same, and
//     the texts of those answers are its own.
//   - created and updated are both the time at which the file was last written.
//   - Version identifiers are hashes of the vault, the name, the position and
//     the value: put nothing in the file that has to stay secret.
//   - A vault that is not in the file answers 404, where the real name would not
//     resolve.
//
// It imports nothing of the broker, so that the two cannot agree on a mistake.
package keyvault
