// Package secretmanager is an in-process fake of what a broker talks to at Google
// Cloud: the one method of Secret Manager that reads a version of a secret, global
// and regional, and the four endpoints that issue access tokens for it (OAuth 2.0,
// Security Token Service, IAM Service Account Credentials, the metadata server). It
// exists for development and tests, and a test that passes against it proves
// nothing about the real store.
//
// It is honest about what a client can see: REST with JSON as protobuf's mapping
// has it, project numbers in answers where requests have IDs, checksums, "latest"
// that is the newest version whatever its state, aliases, the status, code, reason
// and message of each failure, and 403 instead of 404 for those who have no role on
// the project. Signatures of service accounts' assertions are verified, tokens
// expire, and an identity reads only what it has been made a reader of. Google's
// own client works against it, as long as it connects to the fake for the hosts of
// *.googleapis.com.
//
// Where it deviates from the real store:
//   - It accesses versions and does nothing else: no gRPC, no writing, listing,
//     rotation, or deletion by expiry. Roles are lists of readers.
//   - Nothing is throttled of itself; faults are simulated by a project's fault
//     setting alone.
//   - A subject token of workload identity federation is not verified: the one
//     text that it was told is let in.
//   - Payloads are text or base64 of a file or of a struct, and all of it lies in
//     memory: put nothing in that has to stay secret.
//
// It imports nothing of the broker, so that the two cannot agree on a mistake.
package secretmanager
