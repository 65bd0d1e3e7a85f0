package keyvault

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// QueueHost is the host of the only queue, and QueueName its name.
const (
	QueueHost = "yourstorageaccount" + queueSuffix
	QueueName = "secret-events"
)

const (
	queueSuffix     = ".queue.core.windows.net"
	storageResource = "https://storage.azure.com"
	// maxMessages limits the number of messages. The oldest one makes room.
	maxMessages = 1000
	// defaultVisibility is how long a received message is hidden by default.
	defaultVisibility = 30 * time.Second
	// messageLife is how long Event Grid's messages stay in a queue.
	messageLife = 7 * 24 * time.Hour
)

// queue is the queue of Azure Storage that Event Grid delivers the vaults' events to. It is
// safe for concurrent use.
type queue struct {
	now func() time.Time

	mu       sync.Mutex
	messages []*message
}

// message is a message of the queue, with the times of its parts.
type message struct {
	id, text, receipt string
	inserted, visible time.Time
	deliveries        int
}

// put adds a message with an event, in base64 as Event Grid delivers it.
func (q *queue) put(event []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.messages = append(q.messages, &message{id: newUUID(), text: base64.StdEncoding.EncodeToString(event), inserted: q.now()})
	q.messages = q.messages[max(0, len(q.messages)-maxMessages):]
}

// Send puts a message with an event into the queue. The events of changes of the file are
// sent without it.
func (s *Server) Send(event []byte) { s.queue.put(event) }

// notify sends an event for each secret whose current version is another one than before.
func (s *Server) notify(before, after map[string]*vault) {
	for _, vaultName := range slices.Sorted(maps.Keys(after)) {
		old := before[vaultName]
		for _, key := range slices.Sorted(maps.Keys(after[vaultName].secrets)) {
			e := after[vaultName].secrets[key]
			if e.deleted || old != nil && old.secrets[key] != nil && old.secrets[key].versions[0].id == e.versions[0].id {
				continue
			}
			s.queue.put(newVersionEvent(vaultName, e, s.cfg.Now()))
		}
	}
}

// newVersionEvent returns the event SecretNewVersionCreated in the Event Grid schema.
func newVersionEvent(vaultName string, e *entry, now time.Time) []byte {
	data := map[string]any{
		"Id":        "https://" + vaultName + vaultSuffix + "/secrets/" + e.name + "/" + e.versions[0].id,
		"VaultName": vaultName, "ObjectType": "Secret", "ObjectName": e.name, "Version": e.versions[0].id, "NBF": nil, "EXP": nil,
	}
	b, err := json.Marshal(map[string]any{
		"id":      newUUID(),
		"topic":   "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/development/providers/Microsoft.KeyVault/vaults/" + vaultName,
		"subject": e.name, "eventType": "Microsoft.KeyVault.SecretNewVersionCreated", "eventTime": now.UTC().Format(time.RFC3339Nano),
		"data": data, "dataVersion": "1", "metadataVersion": "1",
	})
	if err != nil {
		panic("keyvault: " + err.Error()) // cannot happen: it consists of strings
	}
	return b
}

// serveQueue answers the requests of a receiver. It looks for a change of the file first,
// because a receiver may be the only one that asks for anything.
func (s *Server) serveQueue(w http.ResponseWriter, r *http.Request, host string) {
	s.file.Look()
	header, bearer := r.Header.Get("Authorization"), "bearer "
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case len(header) <= len(bearer) || !strings.EqualFold(header[:len(bearer)], bearer) || !s.tokens.valid(header[len(bearer):], storageResource):
		w.Header().Set("WWW-Authenticate", "Bearer authorization_uri=https://login.microsoftonline.com/"+s.cfg.TenantID+"/oauth2/authorize resource_id="+storageResource)
		refuseQueue(w, http.StatusUnauthorized, "InvalidAuthenticationInfo", "Authentication information is not given in the correct format. Check the value of Authorization header.")
	case host != QueueHost || path[0] != QueueName:
		refuseQueue(w, http.StatusNotFound, "QueueNotFound", "The specified queue does not exist.")
	case r.Method == http.MethodGet && len(path) == 2 && path[1] == "messages":
		s.queue.get(w, r)
	case r.Method == http.MethodDelete && len(path) == 3 && path[1] == "messages":
		s.queue.remove(w, path[2], r.URL.Query().Get("popreceipt"))
	default:
		refuseQueue(w, http.StatusBadRequest, "UnsupportedHttpVerb", "only receiving, peeking and deleting messages are simulated here")
	}
}

// queueMessage is an element of the response to Get Messages and Peek Messages.
type queueMessage struct {
	MessageId, InsertionTime, ExpirationTime string
	PopReceipt                               string `xml:",omitempty"`
	TimeNextVisible                          string `xml:",omitempty"`
	DequeueCount                             int
	MessageText                              string
}

func (q *queue) get(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	most, hide := number(query.Get("numofmessages"), 1), time.Duration(number(query.Get("visibilitytimeout"), int(defaultVisibility/time.Second)))*time.Second
	if most < 1 || most > 32 || hide < time.Second || hide > messageLife {
		refuseQueue(w, http.StatusBadRequest, "OutOfRangeQueryParameterValue", "One of the query parameters specified in the request URI is outside the permissible range.")
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now, list := q.now(), make([]queueMessage, 0, most)
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return !now.Before(m.inserted.Add(messageLife)) })
	for _, m := range q.messages {
		if len(list) == most || now.Before(m.visible) {
			continue
		}
		one := queueMessage{MessageId: m.id, InsertionTime: date(m.inserted), ExpirationTime: date(m.inserted.Add(messageLife)), MessageText: m.text}
		if query.Get("peekonly") != "true" {
			m.visible, m.receipt = now.Add(hide), newUUID()
			m.deliveries++
			one.PopReceipt, one.TimeNextVisible = m.receipt, date(m.visible)
		}
		one.DequeueCount = m.deliveries
		list = append(list, one)
	}
	w.Header().Set("Content-Type", "application/xml")
	_, _ = w.Write([]byte(xml.Header))
	// Encode fails only if the connection does.
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName  xml.Name       `xml:"QueueMessagesList"`
		Messages []queueMessage `xml:"QueueMessage"`
	}{Messages: list})
}

func (q *queue) remove(w http.ResponseWriter, id, receipt string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.messages, func(m *message) bool { return m.id == id })
	switch {
	case i < 0:
		refuseQueue(w, http.StatusNotFound, "MessageNotFound", "The specified message does not exist.")
	case q.messages[i].receipt != receipt || receipt == "":
		refuseQueue(w, http.StatusBadRequest, "PopReceiptMismatch", "The specified pop receipt did not match the pop receipt for a dequeued message.")
	default:
		q.messages = slices.Delete(q.messages, i, i+1)
		w.WriteHeader(http.StatusNoContent)
	}
}

// number returns the number in a query, or otherwise if there is none.
func number(text string, otherwise int) int {
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

func date(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

// refuseQueue answers with an error of Azure Storage.
func refuseQueue(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	_, _ = w.Write([]byte(xml.Header))
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: code, Message: text})
}
