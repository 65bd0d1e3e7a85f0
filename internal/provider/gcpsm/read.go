package gcpsm

import (
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/backoff"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// retries are the pauses before repetitions of a read.
var retries = backoff.Limits{First: 100 * time.Millisecond, Longest: time.Second}

// read reads ref with tok, and retries if that may help. answered reports whether the
// last request got a response that shows that the service works.
func (s *store) read(ctx context.Context, host string, ref secret.Ref, tok token) (sec *secret.Secret, answered bool, err error) {
	for try := 0; ; try++ {
		var transient bool
		sec, answered, transient, err = s.try(ctx, host, ref, tok)
		if !transient || try >= s.cfg.MaxRetries || ctx.Err() != nil {
			return sec, answered, err
		}
		timer := time.NewTimer(backoff.Jitter(retries.After(try + 1)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, false, ctx.Err()
		}
	}
}

// try makes one request: projects.secrets.versions.access of the Secret Manager API,
// version v1, or projects.locations.secrets.versions.access.
func (s *store) try(ctx context.Context, host string, ref secret.Ref, tok token) (sec *secret.Secret, answered, transient bool, err error) {
	version := ref.Version
	if version == "" {
		version = "latest"
	}
	// All parts of ref have been checked, so they need no escaping.
	url := "https://" + host + "/v1/" + ref.Store + "/secrets/" + ref.Name + "/versions/" + version + ":access"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, false, false, err
	}
	s.authorize(req, tok)
	began := s.cfg.Now()
	resp, err := s.api.Do(req)
	if err != nil {
		return nil, errors.As(err, new(egress.AnswerError)), egress.OutageOf(err, advice).Transient, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	body, err := io.ReadAll(resp.Body)       // egress limits the size
	if err != nil {
		return nil, false, true, err
	}
	defer clear(body)
	if resp.StatusCode != http.StatusOK {
		outage := resp.StatusCode >= 500 || resp.StatusCode == http.StatusRequestTimeout
		return nil, !outage, outage && resp.StatusCode != http.StatusNotImplemented, parseError(resp.StatusCode, resp.Header, body)
	}
	sec, err = s.check(host, ref, body, began)
	return sec, true, false, err
}

// accessed is google.cloud.secretmanager.v1.AccessSecretVersionResponse in JSON.
type accessed struct {
	Name    string `json:"name"`
	Payload *struct {
		Data *[]byte `json:"data"` // base64; left out if empty
		// DataCRC32C is an int64, which JSON encodes as a string.
		DataCRC32C json.Number `json:"dataCrc32c"`
	} `json:"payload"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// check converts the response to ref to a Secret. It refuses a response to something
// else and a value with a wrong checksum.
func (s *store) check(host string, ref secret.Ref, body []byte, began time.Time) (*secret.Secret, error) {
	var a accessed
	if json.Unmarshal(body, &a) != nil { // the error quotes the response
		return nil, unexpectedResponse(host, "the response is not the expected JSON")
	}
	var data []byte
	if a.Payload != nil && a.Payload.Data != nil {
		data = *a.Payload.Data
	}
	fail := func(what string) (*secret.Secret, error) {
		clear(data)
		return nil, unexpectedResponse(host, what)
	}
	version, ok := s.identifies(a.Name, ref)
	if !ok {
		return fail("the response is for another secret")
	}
	if a.Payload == nil {
		return fail("the response has no payload")
	}
	// Versions that are older than Secret Manager's checksums may have none. TLS has
	// protected the response in transit.
	if sum := a.Payload.DataCRC32C; sum != "" && sum.String() != strconv.FormatUint(uint64(crc32.Checksum(data, castagnoli)), 10) {
		return fail("the payload does not match its checksum")
	}
	return secret.New(version, began, time.Time{}, data), nil
}

// identifies reports whether name, the resource name in a response, names the version
// that ref asks for, and returns the version's number. The response contains the
// project's number, while most references contain its ID.
func (s *store) identifies(name string, ref secret.Ref) (version string, ok bool) {
	got, err := secret.ParseRef(name)
	if err != nil || got.Kind != secret.KindGCPSecretManager || got.Name != ref.Name || !isNumber(got.Version) ||
		name != got.Store+"/secrets/"+got.Name+"/versions/"+got.Version { // references permit other spellings
		return "", false
	}
	if isNumber(ref.Version) && got.Version != ref.Version {
		return "", false
	}
	askedProject, askedPlace := splitStore(ref.Store)
	gotProject, gotPlace := splitStore(got.Store)
	if askedPlace != gotPlace {
		return "", false
	}
	if askedProject != gotProject {
		if isNumber(askedProject) || !isNumber(gotProject) || !s.numbers.agree(askedProject, gotProject) {
			return "", false
		}
		learnProject(askedProject, gotProject)
	}
	return got.Version, true
}

// isNumber reports whether a canonical project or version is a number. IDs and
// aliases begin with a letter.
func isNumber(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// numbers maps project IDs to project numbers, as learned from responses. The broker
// does not know the number beforehand, but it can detect a change: a project keeps
// its number for ever, and no two projects have the same. numbers is safe for
// concurrent use.
type numbers struct {
	mu   sync.Mutex
	byID map[string]string
}

// agree records that the project has the number. It returns false if that contradicts
// the record. Since either of the two may be wrong, agree then drops the record, and
// the next response determines the number.
func (n *numbers) agree(id, number string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for otherID, other := range n.byID {
		if (otherID == id) != (other == number) {
			delete(n.byID, otherID)
			return false
		}
	}
	if n.byID == nil {
		n.byID = make(map[string]string)
	}
	n.byID[id] = number
	return true
}
