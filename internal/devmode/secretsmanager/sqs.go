package secretsmanager

import (
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// QueueName is the name of the queue that each region has, in the role's account. It gets
// Secrets Manager's event for each change of AWSCURRENT.
const QueueName = "secret-events"

const (
	// maxQueue is the maximum number of messages in a queue. The oldest one makes room.
	maxQueue = 1000
	// lookEvery is how often a waiting request looks for a change of the file.
	lookEvery = 200 * time.Millisecond
	// maxWait is the maximum wait for a message, in seconds.
	maxWait = 20
	// defaultVisibility is how long a message is hidden by default, in seconds.
	defaultVisibility = 30
)

// queued is a message in a queue.
type queued struct {
	id, body, handle string
	sent, visible    time.Time
	deliveries       int
}

// Send puts a message into a region's queue. Secrets Manager's events are sent without it.
func (s *Server) Send(region, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(region, body)
}

// send is Send. It requires s.mu.
func (s *Server) send(region, body string) {
	q := append(s.queues[region], &queued{id: uuid(), body: body, sent: s.now()})
	s.queues[region] = q[max(0, len(q)-maxQueue):]
}

// uuid returns a random UUID.
func uuid() string {
	text := strings.ToLower(rand.Text())
	return text[:8] + "-" + text[8:12] + "-4" + text[12:15] + "-8" + text[15:18] + "-" + text[18:24] + text[:6]
}

// notify sends the events of the changes between two states.
func (s *Server) notify(before, after *State) {
	if before == nil || before.Regions == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for region, r := range after.Regions {
		old := before.Regions[region]
		for _, name := range slices.Sorted(maps.Keys(r.Secrets)) {
			secret, was := r.Secrets[name], (*Secret)(nil)
			if old != nil {
				was = old.Secrets[name]
			}
			if id := secret.currentID(name); id != "" && (id != was.currentID(name) || was.Suffix != secret.Suffix) {
				s.send(region, s.event(after.Identity.account(), region, name, secret))
			}
		}
	}
}

// event returns the event "Secret Label Updated" about the current version.
func (s *Server) event(account, region, name string, secret *Secret) string {
	if secret.Account != "" {
		account = secret.Account
	}
	b, err := json.Marshal(map[string]any{
		"version": "0", "id": uuid(), "detail-type": "Secret Label Updated", "source": "aws.secretsmanager",
		"account": account, "time": s.now().UTC().Format(time.RFC3339), "region": region,
		"resources": []string{"arn:aws:secretsmanager:" + region + ":" + account + ":secret:" + name + "-" + secret.Suffix},
		"detail":    map[string]string{"name": name, "labelUpdated": "AWSCURRENT", "versionId": secret.currentID(name)},
	})
	if err != nil {
		panic("secretsmanager: " + err.Error()) // cannot happen: it consists of strings
	}
	return string(b)
}

// serveSQS answers the requests of a receiver of events.
func (s *Server) serveSQS(w http.ResponseWriter, r *http.Request, state *State, region string, body []byte) {
	fault := func(status int, code, message string) {
		answer(w, status, map[string]string{"__type": "com.amazonaws.sqs#" + code, "message": message + state.ErrorNote})
	}
	signer, code := s.authenticate(r, state, "sqs", region, body)
	if code != "" {
		fault(http.StatusForbidden, stsCodes[code], invalidSignature)
		return
	}
	operation, _ := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	if signer.role == "" && !state.Identity.Reads {
		fault(http.StatusForbidden, "AccessDeniedException", "User is not authorized to perform: sqs:"+strings.ToLower(operation))
		return
	}
	var in sqsRequest
	switch err := json.Unmarshal(body, &in); {
	case err != nil:
		fault(http.StatusBadRequest, "InvalidParameterValueException", "The request cannot be decoded.")
	case in.QueueUrl != "https://sqs."+region+".amazonaws.com/"+state.Identity.account()+"/"+QueueName:
		w.Header().Set("X-Amzn-Query-Error", "AWS.SimpleQueueService.NonExistentQueue;Sender")
		fault(http.StatusBadRequest, "QueueDoesNotExist", "The specified queue does not exist.")
	case operation == "ReceiveMessage":
		s.serveReceive(w, r, region, &in)
	case operation == "DeleteMessageBatch":
		answer(w, http.StatusOK, s.remove(region, &in))
	case operation == "GetQueueAttributes":
		answer(w, http.StatusOK, map[string]any{"Attributes": s.attributes(region, state.Identity.account())})
	default:
		fault(http.StatusBadRequest, "UnsupportedOperation", "the fake knows ReceiveMessage, DeleteMessageBatch and GetQueueAttributes")
	}
}

// sqsRequest is the input of an operation.
type sqsRequest struct {
	QueueUrl                                    string
	MaxNumberOfMessages                         int
	WaitTimeSeconds                             int
	VisibilityTimeout                           *int
	Entries                                     []struct{ Id, ReceiptHandle string }
	AttributeNames, MessageSystemAttributeNames []string
}

// serveReceive waits until a message is in the queue, the time is over, or the client has
// gone or the server ends. It looks at the file meanwhile, because nothing else does.
func (s *Server) serveReceive(w http.ResponseWriter, r *http.Request, region string, in *sqsRequest) {
	over := time.NewTimer(time.Duration(min(max(in.WaitTimeSeconds, 0), maxWait)) * time.Second)
	defer over.Stop()
	every := time.NewTicker(lookEvery)
	defer every.Stop()
	for last := false; ; {
		if s.file != nil {
			s.file.Look()
		}
		if messages := s.receive(region, in); len(messages) > 0 || last {
			answer(w, http.StatusOK, map[string]any{"Messages": messages})
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-over.C:
			last = true
		case <-every.C:
		}
	}
}

// receive delivers messages that are visible.
func (s *Server) receive(region string, in *sqsRequest) []map[string]any {
	visibility := defaultVisibility
	if in.VisibilityTimeout != nil {
		visibility = *in.VisibilityTimeout
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	messages, now := []map[string]any{}, s.now()
	for _, m := range s.queues[region] {
		if len(messages) == min(max(in.MaxNumberOfMessages, 1), 10) {
			break
		}
		if now.Before(m.visible) {
			continue
		}
		m.handle, m.visible = rand.Text(), now.Add(time.Duration(visibility)*time.Second)
		m.deliveries++
		all := map[string]string{"ApproximateReceiveCount": strconv.Itoa(m.deliveries), "SentTimestamp": strconv.FormatInt(m.sent.UnixMilli(), 10)}
		maps.DeleteFunc(all, func(name, _ string) bool { return !slices.Contains(in.MessageSystemAttributeNames, name) })
		messages = append(messages, map[string]any{"MessageId": m.id, "ReceiptHandle": m.handle, "Body": m.body, "Attributes": all})
	}
	return messages
}

// remove deletes messages by the handles of their last deliveries.
func (s *Server) remove(region string, in *sqsRequest) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	done, failed := []map[string]any{}, []map[string]any{}
	for _, e := range in.Entries {
		i := slices.IndexFunc(s.queues[region], func(m *queued) bool { return m.handle == e.ReceiptHandle && m.handle != "" })
		if i < 0 {
			failed = append(failed, map[string]any{"Id": e.Id, "Code": "ReceiptHandleIsInvalid", "SenderFault": true})
			continue
		}
		s.queues[region] = slices.Delete(s.queues[region], i, i+1)
		done = append(done, map[string]any{"Id": e.Id})
	}
	return map[string]any{"Successful": done, "Failed": failed}
}

// attributes returns the attributes of a region's queue.
func (s *Server) attributes(region, account string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := 0
	for _, m := range s.queues[region] {
		if !s.now().Before(m.visible) {
			waiting++
		}
	}
	return map[string]string{
		"QueueArn":                    "arn:aws:sqs:" + region + ":" + account + ":" + QueueName,
		"ApproximateNumberOfMessages": strconv.Itoa(waiting), "ApproximateNumberOfMessagesNotVisible": strconv.Itoa(len(s.queues[region]) - waiting),
		"Policy": `{"Version":"2012-10-17","Statement":[]}`,
	}
}
