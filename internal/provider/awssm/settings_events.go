package awssm

import (
	"regexp"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var _ integration.EventSettings = (*Settings)(nil)

// Events configures the queue of Amazon SQS that receives the events of Secrets Manager.
type Events struct {
	// QueueURL is "https://sqs.REGION.amazonaws.com/ACCOUNT/NAME", with the suffix of the
	// region's partition.
	QueueURL string
	// Region, Account and Queue are the parts of QueueURL.
	Region, Account, Queue string
	// Endpoint is the endpoint of SQS that requests are sent to: "https://HOST".
	Endpoint string
	// Credential is the credential for the queue; nil means that of the integration.
	Credential *Credential
	// Role is the role that the credential assumes for the queue. If Credential and Role
	// are both nil, the integration's identity is used, with its role.
	Role *Role
}

// EventSource implements integration.EventSettings: the URL of the queue.
func (a *Settings) EventSource() string {
	if a.Events == nil {
		return ""
	}
	return a.Events.QueueURL
}

// arn returns the ARN of the queue.
func (e *Events) arn() string {
	partition, _ := secret.AWSPartitionOf(e.Region)
	return "arn:" + partition.ID + ":sqs:" + e.Region + ":" + e.Account + ":" + e.Queue
}

// identity is a credential and the role that it assumes, if any, with the names of the
// settings that configure them.
type identity struct {
	credential Credential
	// credentialAt is "aws.credential" or "aws.events.credential".
	credentialAt string
	role         *Role
	// roleAt is "aws.role" or "aws.events.role".
	roleAt string
}

// identity returns the identity that reads secrets.
func (a *Settings) identity() identity {
	return identity{credential: a.Credential, credentialAt: "aws.credential", role: a.Role, roleAt: "aws.role"}
}

// eventsIdentity returns the identity that receives events.
func (a *Settings) eventsIdentity() identity {
	id := a.identity()
	e := a.Events
	if e.Credential == nil && e.Role == nil {
		return id
	}
	if e.Credential != nil {
		id.credential, id.credentialAt = *e.Credential, "aws.events.credential"
	}
	id.role, id.roleAt = e.Role, "aws.events.role"
	return id
}

// ownsIdentity reports whether events are received with another identity than that which
// reads secrets.
func (e *Events) ownsIdentity() bool { return e.Credential != nil || e.Role != nil }

// identities returns the identities, with each setting once.
func (a *Settings) identities() []identity {
	ids := []identity{a.identity()}
	if a.Events != nil && a.Events.ownsIdentity() {
		ids = append(ids, a.eventsIdentity())
	}
	return ids
}

// events returns nil if the section has no source of events.
func (p parser) events(s *section, a *Settings) *Events {
	const at = "aws.events"
	if !p.Has(at) {
		return nil
	}
	e := p.queue(at+".queue_url", s.Events.QueueURL)
	if e.Region != "" {
		e.Endpoint = hostOf("sqs", e.Region, s.FIPS)
	}
	credential := a.Credential.Type
	if p.Has(at + ".credential") {
		c := p.credential(at+".credential", s.Events.Credential)
		e.Credential, credential = &c, c.Type
	}
	if role := s.Events.Role; p.Has(at + ".role") {
		if a.Role != nil && !p.Has(at+".role.external_id") {
			role.ExternalID = a.Role.ExternalID
		}
		e.Role = p.role(at+".role", role, credential)
	}
	return e
}

// The names of queues, as in the API reference of SQS.
var queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// queue parses the URL of a queue. Region is empty if it is not valid.
func (p parser) queue(path, url string) *Events {
	rest, isHTTPS := strings.CutPrefix(url, "https://")
	host, rest, _ := strings.Cut(rest, "/")
	host = strings.TrimSuffix(strings.ToLower(host), ":443")
	account, name, _ := strings.Cut(rest, "/")
	service, domain, _ := strings.Cut(host, ".")
	region, _, _ := strings.Cut(domain, ".")
	partition, known := secret.AWSPartitionOf(region)
	const expected = "expected https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, as the console and aws sqs get-queue-url show it"
	switch {
	case !p.Has(path):
		p.Fault(path, "missing; it is required: the URL of the SQS queue, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")
	case strings.HasPrefix(url, "arn:"):
		p.Fault(path, "this is an ARN; %s", expected)
	case !isHTTPS:
		p.Fault(path, "%s", expected)
	case service == "sqs-fips" && known:
		p.Fault(path, "a FIPS endpoint; write sqs.%s%s and set aws.fips", region, partition.Suffix)
	case service == "queue" || strings.Contains(host, ".queue."):
		p.Fault(path, "an endpoint of an older form; %s", expected)
	case strings.Contains(host, ".vpce."):
		p.Fault(path, "a VPC endpoint; write the queue's own URL, and set aws.dial[sqs.REGION.amazonaws.com] to the endpoint's name and port 443")
	case service != "sqs" || !known || domain != region+partition.Suffix:
		p.Fault(path, "not a regional endpoint of SQS; %s", expected)
	case !secret.IsAWSAccount(account):
		p.Fault(path, "an account's 12 digits must follow the host; %s", expected)
	case strings.HasSuffix(name, ".fifo"):
		p.Fault(path, "a FIFO queue, in which one message can block all others; use a standard queue")
	case !queueName.MatchString(name):
		p.Fault(path, "the queue's name must follow the account: up to 80 letters, digits, hyphens and underscores")
	default:
		return &Events{QueueURL: "https://" + host + "/" + account + "/" + name, Region: region, Account: account, Queue: name}
	}
	return &Events{}
}
