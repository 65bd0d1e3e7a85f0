package secretmanager

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	pubsubHost = "pubsub.googleapis.com"
	// firstDeadline is how long a message that was pulled is not delivered again, unless the
	// subscriber extends it.
	firstDeadline = 10 * time.Second
	// longestPull is how long a pull waits for a message if the request does not say.
	longestPull = 90 * time.Second
	// lookInterval is how often a waiting pull looks for a message, and for a change of the
	// file.
	lookInterval = 100 * time.Millisecond
	// maxKept is the number of messages that a subscription keeps; further ones replace the
	// oldest.
	maxKept = 1000
)

// Subscription is a pull subscription of Pub/Sub that gets the notifications of all secrets of
// all projects.
type Subscription struct {
	// Subscribers are the identities that may receive its messages.
	Subscribers []string `yaml:"subscribers"`
}

// message is a message of a subscription.
type message struct {
	id         string
	attributes map[string]string
	published  time.Time
	// ack is the handle of the last delivery, and leased until when there is no other.
	ack    string
	leased time.Time
}

// queues are the messages of the subscriptions, by their names.
type queues struct {
	mu       sync.Mutex
	last     int // the id of the last message
	messages map[string][]*message
}

// publish adds a message with each of the attributes to every subscription.
func (q *queues) publish(subscriptions map[string]*Subscription, now time.Time, all []map[string]string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.messages == nil {
		q.messages = make(map[string][]*message)
	}
	for _, attributes := range all {
		q.last++
		for name := range subscriptions {
			list := append(q.messages[name], &message{id: strconv.Itoa(q.last), attributes: attributes, published: now})
			q.messages[name] = list[max(0, len(list)-maxKept):]
		}
	}
}

// pull returns up to n messages that are not leased, and leases them.
func (q *queues) pull(name string, n int, now time.Time) []map[string]any {
	q.mu.Lock()
	defer q.mu.Unlock()
	var pulled []map[string]any
	for _, m := range q.messages[name] {
		if len(pulled) == n || now.Before(m.leased) {
			continue
		}
		m.ack, m.leased = rand.Text(), now.Add(firstDeadline)
		pulled = append(pulled, map[string]any{"ackId": m.ack, "message": map[string]any{
			"attributes": m.attributes, "messageId": m.id, "publishTime": m.published.UTC().Format(time.RFC3339Nano),
		}})
	}
	return pulled
}

// extend sets the ends of the leases of messages.
func (q *queues) extend(name string, acks []string, until time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.messages[name] {
		if slices.Contains(acks, m.ack) {
			m.leased = until
		}
	}
}

// acknowledge removes messages.
func (q *queues) acknowledge(name string, acks []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.messages[name] = slices.DeleteFunc(q.messages[name], func(m *message) bool { return slices.Contains(acks, m.ack) })
}

// servePubSub serves the methods of subscriptions that a subscriber needs.
func (s *Server) servePubSub(w http.ResponseWriter, r *http.Request, state *State) {
	name, method, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), ":")
	var body struct {
		MaxMessages        int      `json:"maxMessages"`
		AckIDs             []string `json:"ackIds"`
		AckDeadlineSeconds int      `json:"ackDeadlineSeconds"`
		Permissions        []string `json:"permissions"`
	}
	if r.Method != http.MethodPost || !slices.Contains([]string{"pull", "acknowledge", "modifyAckDeadline", "testIamPermissions"}, method) {
		writeError(w, apiFault{http.StatusNotFound, "NOT_FOUND", "Method not found.", "", nil})
		return
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil || method == "pull" && body.MaxMessages < 1 {
		writeError(w, apiFault{http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument.", "", nil})
		return
	}
	who, fault := s.authenticate(r, state)
	if fault != nil {
		writeError(w, *fault)
		return
	}
	sub := state.Subscriptions[name]
	may := sub != nil && slices.Contains(sub.Subscribers, who)
	switch {
	case method == "testIamPermissions":
		answer := map[string]any{}
		if may && slices.Contains(body.Permissions, "pubsub.subscriptions.consume") {
			answer["permissions"] = []string{"pubsub.subscriptions.consume"}
		}
		writeJSON(w, http.StatusOK, answer)
	case !may:
		writeError(w, apiFault{http.StatusForbidden, "PERMISSION_DENIED", "User not authorized to perform this action.", "IAM_PERMISSION_DENIED", nil})
	case method == "pull":
		s.servePull(w, r, name, body.MaxMessages)
	case method == "acknowledge":
		s.queues.acknowledge(name, body.AckIDs)
		writeJSON(w, http.StatusOK, struct{}{})
	default:
		s.queues.extend(name, body.AckIDs, s.now().Add(time.Duration(body.AckDeadlineSeconds)*time.Second))
		writeJSON(w, http.StatusOK, struct{}{})
	}
}

// servePull waits until there is a message.
func (s *Server) servePull(w http.ResponseWriter, r *http.Request, name string, n int) {
	longest := longestPull
	if seconds, err := strconv.Atoi(r.Header.Get("X-Server-Timeout")); err == nil && seconds > 0 {
		longest = min(longest, time.Duration(seconds)*time.Second)
	}
	end := time.NewTimer(longest)
	defer end.Stop()
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		if s.file != nil {
			s.file.Look()
		}
		if pulled := s.queues.pull(name, n, s.now()); pulled != nil {
			writeJSON(w, http.StatusOK, map[string]any{"receivedMessages": pulled})
			return
		}
		select {
		case <-look.C:
		case <-end.C:
			writeJSON(w, http.StatusOK, struct{}{})
			return
		case <-r.Context().Done():
			return
		}
	}
}
