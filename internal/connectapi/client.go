package connectapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/clienttls"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

const (
	// maxList limits the answer with all connectors, and maxAnswer every other one, in bytes.
	maxList   = 64 << 20
	maxAnswer = 4 << 20
	// maxCredential limits the files of credentials, in bytes.
	maxCredential = 64 << 10
)

// Client calls the REST API of one cluster. It is safe for concurrent use.
type Client struct {
	cluster Cluster
	http    *http.Client
}

// New makes a client of a cluster of Load. It fails if the TLS files or the credentials are
// not valid, and does not connect.
func New(c Cluster) (*Client, error) {
	transport := &http.Transport{
		// No proxy: its operator would see what an http:// URL transfers.
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	}
	if strings.HasPrefix(c.URL, "https://") {
		files, err := clienttls.Open(clienttls.Config{
			CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, Section: "cluster " + c.Name,
			ReadKey: func(path string) ([]byte, error) { return keyfile.Read(path, maxCredential) },
		})
		if err != nil {
			return nil, err
		}
		transport.DialTLSContext = dialTLS(files, c.ServerName)
	}
	client := &Client{cluster: c, http: &http.Client{
		Transport: transport, Timeout: time.Duration(c.Timeout),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	req, err := http.NewRequest(http.MethodGet, c.URL, http.NoBody) //nolint:noctx // not sent: checks the credentials
	if err != nil {
		return nil, &Error{Cluster: c.Name, Kind: Failed, text: "the URL is not valid"}
	}
	if e := client.authorize(req); e != nil {
		return nil, e
	}
	return client, nil
}

// NewWithTransport makes a client that sends its requests to a transport, for tests of
// programs that use a Client.
func NewWithTransport(c Cluster, transport http.RoundTripper) *Client {
	return &Client{cluster: c, http: &http.Client{Transport: transport, Timeout: time.Duration(c.Timeout)}}
}

// dialTLS connects with the current content of the files.
func dialTLS(files *clienttls.Files, serverName string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if serverName != "" {
			host = serverName
		}
		config, _ := files.TLS(&tls.Config{MinVersion: tls.VersionTLS12, ServerName: host})
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: config}
		return d.DialContext(ctx, network, addr)
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Connector is a connector with its configuration and state.
type Connector struct {
	Name string
	// Config has the properties as Connect stores them, with placeholders. It may contain
	// confidential values.
	Config map[string]string
	// Unreadable are the properties whose values are not text.
	Unreadable []string
	Status
}

// Status is the state of a connector and of its tasks. States are those of Connect: RUNNING,
// PAUSED, STOPPED, FAILED, UNASSIGNED, RESTARTING, and perhaps others of later versions. An
// empty State means that the cluster did not tell it.
type Status struct {
	State    string
	WorkerID string
	Tasks    []Task
}

// Task is a task of a connector.
type Task struct {
	ID       int
	State    string
	WorkerID string
}

// The states of connectors and tasks that callers distinguish.
const (
	StateRunning    = "RUNNING"
	StatePaused     = "PAUSED"
	StateStopped    = "STOPPED"
	StateFailed     = "FAILED"
	StateUnassigned = "UNASSIGNED"
	StateRestarting = "RESTARTING"
)

// The messages of Connect. Stack traces are not among the fields.
type (
	wireConnector struct {
		Info   *wireInfo   `json:"info"`
		Status *wireStatus `json:"status"`
	}
	wireInfo struct {
		Config map[string]json.RawMessage `json:"config"`
	}
	wireStatus struct {
		Connector wireState   `json:"connector"`
		Tasks     []wireState `json:"tasks"`
	}
	wireState struct {
		ID       int    `json:"id"`
		State    string `json:"state"`
		WorkerID string `json:"worker_id"`
	}
)

func (w *wireStatus) status() Status {
	if w == nil {
		return Status{}
	}
	s := Status{State: w.Connector.State, WorkerID: w.Connector.WorkerID}
	for _, t := range w.Tasks {
		s.Tasks = append(s.Tasks, Task(t))
	}
	slices.SortFunc(s.Tasks, func(a, b Task) int { return a.ID - b.ID })
	return s
}

func (w *wireInfo) config() (config map[string]string, unreadable []string) {
	config = make(map[string]string, len(w.Config))
	for name, raw := range w.Config {
		var s *string
		switch err := json.Unmarshal(raw, &s); {
		case err != nil:
			unreadable = append(unreadable, name)
		case s != nil:
			config[name] = *s
		}
	}
	slices.Sort(unreadable)
	return config, unreadable
}

// List returns all connectors of the cluster, sorted by name. The error is an *Error.
func (c *Client) List(ctx context.Context) ([]Connector, error) {
	body, err := c.call(ctx, http.MethodGet, "/connectors?expand=info&expand=status", http.StatusOK, maxList)
	if err != nil {
		return nil, err
	}
	var all map[string]wireConnector
	if json.Unmarshal(body, &all) != nil {
		return nil, c.fail(Failed, "the answer to GET /connectors is not that of Kafka Connect 2.3 or newer; check the URL")
	}
	list := make([]Connector, 0, len(all))
	for name, w := range all {
		if w.Info == nil || w.Info.Config == nil {
			return nil, c.fail(Failed, "the answer to GET /connectors has a connector without a configuration, so the list would be incomplete; try again, and check what is between this program and the workers")
		}
		it := Connector{Name: name, Status: w.Status.status()}
		it.Config, it.Unreadable = w.Info.config()
		list = append(list, it)
	}
	slices.SortFunc(list, func(a, b Connector) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Get returns one connector. The error is an *Error, of kind NotFound if there is none.
func (c *Client) Get(ctx context.Context, name string) (Connector, error) {
	path := "/connectors/" + url.PathEscape(name)
	body, err := c.call(ctx, http.MethodGet, path, http.StatusOK, maxAnswer)
	if err != nil {
		return Connector{}, err
	}
	var info wireInfo
	if json.Unmarshal(body, &info) != nil || info.Config == nil {
		return Connector{}, c.fail(Failed, "the answer to GET /connectors/NAME is not that of Kafka Connect; check the URL")
	}
	status, err := c.Status(ctx, name)
	if err != nil {
		return Connector{}, err
	}
	it := Connector{Name: name, Status: status}
	it.Config, it.Unreadable = info.config()
	return it, nil
}

// Status returns the state of a connector. The error is an *Error, of kind NotFound if there
// is none.
func (c *Client) Status(ctx context.Context, name string) (Status, error) {
	body, err := c.call(ctx, http.MethodGet, "/connectors/"+url.PathEscape(name)+"/status", http.StatusOK, maxAnswer)
	if err != nil {
		return Status{}, err
	}
	var status wireStatus
	if json.Unmarshal(body, &status) != nil || status.Connector.State == "" {
		return Status{}, c.fail(Failed, "the answer to GET /connectors/NAME/status is not that of Kafka Connect; check the URL")
	}
	return status.status(), nil
}

// Restart asks the cluster to restart a connector and all its tasks. Nil means that the
// cluster has accepted the request, which proves nothing: Connect restarts later, and
// writes failures to the log of a worker only. The error is an *Error. With kind Uncertain
// the cluster may restart the connector nevertheless.
func (c *Client) Restart(ctx context.Context, name string) error {
	path := "/connectors/" + url.PathEscape(name) + "/restart?includeTasks=true&onlyFailed=false"
	_, err := c.call(ctx, http.MethodPost, path, http.StatusAccepted, maxAnswer)
	return err
}

// call sends a request and returns the body of an answer with the wanted status.
func (c *Client) call(ctx context.Context, method, path string, want int, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.cluster.URL, "/")+path, http.NoBody)
	if err != nil {
		return nil, c.fail(Failed, "the URL of the request is not valid")
	}
	if e := c.authorize(req); e != nil {
		return nil, e
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.failedToSend(ctx, method, err)
	}
	defer func() { _ = res.Body.Close() }() // read only
	if res.StatusCode != want {
		_, _ = io.CopyN(io.Discard, res.Body, maxCredential) // so that the connection can be used again
		return nil, c.refused(method, res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case method == http.MethodPost:
		return nil, nil // the status says everything
	case err != nil:
		return nil, c.failedToSend(ctx, method, err)
	case int64(len(body)) > limit:
		return nil, c.fail(Failed, "the answer is larger than this program accepts")
	}
	return body, nil
}

// authorize adds the credential to a request.
func (c *Client) authorize(req *http.Request) *Error {
	read := func(path string) (string, *Error) {
		data, err := keyfile.Read(path, maxCredential)
		text := strings.TrimRight(string(data), "\r\n")
		switch {
		case err != nil:
			return "", &Error{Cluster: c.cluster.Name, Kind: Denied, text: "the credential's file cannot be read: " + err.Error(), cause: err}
		case text == "" || strings.ContainsAny(text, "\r\n\x00"):
			return "", c.fail(Denied, "the credential's file "+path+" must contain one line")
		}
		return text, nil
	}
	switch {
	case c.cluster.Basic != nil:
		password, err := read(c.cluster.Basic.PasswordFile)
		if err != nil {
			return err
		}
		req.SetBasicAuth(c.cluster.Basic.Username, password)
	case c.cluster.BearerTokenFile != "":
		token, err := read(c.cluster.BearerTokenFile)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// KindOf returns the kind of an error of a Client, and "" for another error.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return ""
}
