// Package keyvault is an in-process fake of three services: the part of Azure Key Vault's data
// plane that reads secrets, a queue of Azure Storage that gets an event for each new version,
// and the part of Microsoft Entra ID that issues tokens for both. It is for development and
// tests. A test that passes against it proves nothing about the real
// store.
//
// It simulates what a client can observe: the 401 challenge, opaque bearer tokens with an
// expiry, canonical identifiers, case-insensitive names, and the status, code, inner code and
// message of each error. The real azsecrets and azidentity clients work against it with
// challenge verification enabled, provided that a vault is addressed by its real name,
// https://NAME.vault.azure.net without a port, and the client's transport dials the fake
// instead.
//
// The content of the vaults is a YAML file that may be edited while the fake runs; see
// Config.SecretsFile.
//
// Differences from the real store:
//   - It only reads secrets: no writing, listing, keys, certificates, deleted secrets or
//     firewall.
//   - Every token can read every vault in the file; only a vault's fault setting simulates
//     roles. There is no throttling except by that setting.
//   - The signature of a client assertion (a certificate credential, a federated token) is
//     NOT verified: every client that names the client ID gets a token.
//   - An expired token and a token that was never issued get the same answer, and the texts
//     of these answers are not Azure's.
//   - created and updated are both the time at which the file was last written.
//   - Version identifiers are hashes of the vault, the name, the position and the value: do
//     not put real secrets into the file.
//   - The queue has no operations but those of a receiver. Event Grid delivers its events at
//     once and in order. Every token for Azure Storage may receive.
//   - A vault that is not in the file answers 404; its real name would not resolve.
//
// It imports no package of the broker, so that the two cannot share a mistake.
package keyvault
