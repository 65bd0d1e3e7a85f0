package azurekv

import (
	"context"
	"encoding/xml"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

const (
	queueHost = "account1.queue.core.windows.net"
	queueURL  = "https://" + queueHost + "/events"
	// ownClient is the application of the queue's own identity.
	ownClient = "11111111-2222-3333-4444-555555555555"
)

// storageQueue is a queue of Azure Storage.
type storageQueue struct {
	*fake
	mu       sync.Mutex
	messages []*queued
	requests []string // method and path with the query of each request with a token
	// trouble, if not nil, answers requests.
	trouble http.HandlerFunc
	// challenge is the header with a 401.
	challenge string
}

// queued is a message in the queue.
type queued struct {
	XMLName         xml.Name `xml:"QueueMessage"`
	MessageID       string   `xml:"MessageId"`
	InsertionTime   string
	ExpirationTime  string
	PopReceipt      string
	TimeNextVisible string
	DequeueCount    int
	MessageText     string
	hidden          bool
}

func newStorageQueue(t testing.TB) *storageQueue {
	q := &storageQueue{fake: newFake(t), challenge: `Bearer authorization_uri=https://` + loginHost + `/` + tenantID + `/oauth2/authorize resource_id=https://storage.azure.com`}
	q.serve(queueHost, q.Certificate("*.queue.core.windows.net"), q.serveQueue)
	return q
}

// sent is when all messages were put into the queue.
var sent = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func (q *storageQueue) put(texts ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, text := range texts {
		q.messages = append(q.messages, &queued{
			MessageID: fmt.Sprintf("5974b586-0df3-4e2d-ad0c-%012d", len(q.messages)+1), MessageText: text,
			InsertionTime: sent.Format(http.TimeFormat), ExpirationTime: sent.AddDate(0, 0, 7).Format(http.TimeFormat),
		})
	}
}

func (q *storageQueue) left() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.messages)
}

func (q *storageQueue) serveQueue(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fake.mu.Lock()
	refused := q.fake.refused[token]
	q.fake.mu.Unlock()
	if !strings.HasPrefix(token, "access-token-") || refused || r.Header.Get("X-Ms-Version") == "" {
		w.Header().Set("WWW-Authenticate", q.challenge)
		queueFailure(w, http.StatusUnauthorized, "InvalidAuthenticationInfo")
		return
	}
	q.requests = append(q.requests, r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery)
	if q.trouble != nil {
		q.trouble(w, r)
		return
	}
	switch id, isMessage := strings.CutPrefix(r.URL.Path, "/events/messages/"); {
	case r.Method == http.MethodGet && r.URL.Path == "/events/messages":
		q.get(w, r)
	case r.Method == http.MethodDelete && isMessage:
		q.remove(w, id, r.URL.Query().Get("popreceipt"))
	default:
		queueFailure(w, http.StatusNotFound, "QueueNotFound")
	}
}

func (q *storageQueue) get(w http.ResponseWriter, r *http.Request) {
	most, _ := strconv.Atoi(r.URL.Query().Get("numofmessages"))
	var list struct {
		XMLName  xml.Name `xml:"QueueMessagesList"`
		Messages []*queued
	}
	for _, m := range q.messages {
		if m.hidden || len(list.Messages) == most {
			continue
		}
		if r.URL.Query().Get("peekonly") != "true" {
			m.hidden = true
			m.DequeueCount++
			m.PopReceipt = fmt.Sprintf("receipt/%d+==", m.DequeueCount)
			m.TimeNextVisible = sent.Add(time.Minute).Format(http.TimeFormat)
		}
		list.Messages = append(list.Messages, m)
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(list)
}

func (q *storageQueue) remove(w http.ResponseWriter, id, receipt string) {
	i := slices.IndexFunc(q.messages, func(m *queued) bool { return m.MessageID == id })
	switch {
	case i < 0:
		queueFailure(w, http.StatusNotFound, "MessageNotFound")
	case q.messages[i].PopReceipt != receipt:
		queueFailure(w, http.StatusBadRequest, "PopReceiptMismatch")
	default:
		q.messages = slices.Delete(q.messages, i, i+1)
		w.WriteHeader(http.StatusNoContent)
	}
}

// queueFailure is an error response of Azure Storage, which quotes a message.
func queueFailure(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Ms-Error-Code", code)
	w.Header().Set("X-Ms-Request-Id", "request-7")
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, canary)
}

// source opens the source of an integration. It does not wait between requests.
func (q *storageQueue) source(change func(*Settings)) *queue {
	q.Helper()
	in := q.integration()
	settingsOf(in).Events = EventSettings{QueueURL: queueURL}
	if change != nil {
		change(settingsOf(in))
	}
	s, err := openQueue(q.Context(), q.Config(), in)
	providertest.Must(q, err)
	q.Cleanup(func() { providertest.Must(q, s.Close()) })
	s.wait = func(ctx context.Context, _ time.Duration) bool { return ctx.Err() == nil }
	return s
}

// ownIdentity gives the queue an identity of its own.
func (q *storageQueue) ownIdentity(a *Settings) {
	a.Events.TenantID, a.Events.ClientID = tenantID, ownClient
	a.Events.Credential = Credential{Type: ClientSecret, ClientSecretFile: providertest.WriteFile(q, "events", testSecret)}
}

func (q *storageQueue) receive(s *queue) []provider.EventMessage {
	q.Helper()
	messages, err := s.Receive(q.Context())
	providertest.Must(q, err)
	return messages
}
