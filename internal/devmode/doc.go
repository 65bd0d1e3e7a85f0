// Package devmode provides everything that a broker needs to run on one machine without a
// cloud: an embedded Key Vault with its login authority, optionally an embedded Secrets
// Manager of AWS and Secret Manager of Google Cloud, throwaway certificates for both sides,
// sample secrets, and an ordinary configuration that refers to them.
//
// The package manages the files in its folder and the embedded stores. It writes secretbroker.yaml
// and the integrations as text, and does not import the packages that read them. The broker
// starts with these files as with any others, by the same code, so that it cannot behave
// differently in development and production.
//
// Use it for development only: a user who can read the folder has the keys of the
// certificates and the sample secrets.
package devmode
