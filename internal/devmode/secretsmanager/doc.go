// Package secretsmanager is an in-process fake of the parts of AWS that a broker uses: the
// operations of Secrets Manager that read a secret, STS AssumeRole and
// AssumeRoleWithWebIdentity, and a queue of SQS in each region that receives the events of
// Secrets Manager. It is for development and tests. A test that passes against it
// proves nothing about the real store.
//
// It simulates what a client can observe: AWS's JSON protocol and STS's XML, error codes, ARNs
// with their suffixes, the completion of partial ARNs, staging labels, and secrets that are
// scheduled for deletion. It verifies signatures (version 4), sessions expire, only one access
// key with one external ID can assume the role, and only the role's sessions can read. AWS's
// own client works against it, provided that it connects to the fake for the hosts of
// *.amazonaws.com.
//
// Differences from the real store:
//   - A web identity token is not verified: the fake accepts exactly the configured text, in a
//     request without a signature.
//   - It only reads secrets: no writing, listing, rotating, batches, KMS or replication. A
//     secret's denied setting simulates a policy.
//   - Version IDs are derived from the secret's name, the version's number and its value, so a
//     value that is edited in place is a new version.
//   - The queue has the operations that a receiver of events uses: receiving with long polls,
//     deleting in batches and reading attributes. It gets the event "Secret Label Updated" if a
//     secret has another current version than before, and no events of CloudTrail. A message
//     has no checksum.
//   - There is no throttling; only a region's fault setting simulates failures.
//   - The content stays in memory: do not use real secrets.
//
// It imports neither the broker nor AWS's SDK, so that no two of them can share a mistake.
package secretsmanager
