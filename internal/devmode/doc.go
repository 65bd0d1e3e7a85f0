// Package devmode makes everything that a broker needs to run on one machine
// without a cloud: an embedded Key Vault with a login authority, if wanted an
// embedded Secrets Manager of AWS and Secret Manager of Google Cloud, throwaway
// certificates for both sides, sample secrets, and an ordinary configuration that
// points to them.
//
// It owns the files in its folder and the embedded stores. It knows the
// layout of broker.yaml and of an integration as text only: the broker is then
// started on them like on any others, by the same wiring, so that nothing in it
// can tell development from production.
//
// None of it is safe beyond development: a user who can read the folder has the
// certificates' keys and the sample secrets.
package devmode
