package gcpsm

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/backoff"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// retries are the pauses before repetitions of a read.
var retries = backoff.Limits{First: 100 * time.Millisecond, Longest: time.Second}

// read asks for ref with tok, again if that may well help. answered says whether
// the last request brought an answer that is not the sign of an outage.
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

// try makes one request: projects.secrets.versions.access of the Secret Manager
// API, version v1, or projects.locations.secrets.versions.access.
func (s *store) try(ctx context.Context, host string, ref secret.Ref, tok token) (sec *secret.Secret, answered, transient bool, err error) {
	version := ref.Version
	if version == "" {
		version = "latest"
	}
	// Every part of ref has been checked: there is nothing to escape.
	url := "https://" + host + "/v1/" + ref.Store + "/secrets/" + ref.Name + "/versions/" + version + ":access"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, false, false, err
	}
	req.Header.Set("Authorization", "Bearer "+tok.text())
	req.Header.Set("User-Agent", "secretbroker")
	if s.quota != "" {
		req.Header.Set("X-Goog-User-Project", s.quota)
	}
	began := s.cfg.Now()
	resp, err := s.api.Do(req)
	if err != nil {
		return nil, errors.As(err, new(egress.AnswerError)), egress.OutageOf(err, advice).Transient, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	body, err := io.ReadAll(resp.Body)       // bounded by egress
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
		// DataCRC32C is an int64, which JSON has as a string.
		DataCRC32C json.Number `json:"dataCrc32c"`
	} `json:"payload"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// check makes a Secret of the answer to ref, unless it is the answer to something
// else or was damaged on its way.
func (s *store) check(host string, ref secret.Ref, body []byte, began time.Time) (*secret.Secret, error) {
	var a accessed
	if json.Unmarshal(body, &a) != nil { // its error quotes the answer
		return nil, somethingElse(host, "the answer is not JSON of the right form")
	}
	var data []byte
	if a.Payload != nil && a.Payload.Data != nil {
		data = *a.Payload.Data
	}
	fail := func(what string) (*secret.Secret, error) {
		clear(data)
		return nil, somethingElse(host, what)
	}
	version, ok := s.identifies(a.Name, ref)
	if !ok {
		return fail("the answer is not about the secret that was asked for")
	}
	if a.Payload == nil {
		return fail("the answer is without a payload")
	}
	// Versions from before Secret Manager kept checksums may have none; TLS has
	// seen to what came over the wire.
	if sum := a.Payload.DataCRC32C; sum != "" && sum.String() != strconv.FormatUint(uint64(crc32.Checksum(data, castagnoli)), 10) {
		return fail("the payload does not have the checksum that it says")
	}
	if !utf8.Valid(data) { // values are text; decode=base64 in a reference gives the bytes back
		text := base64.StdEncoding.AppendEncode(nil, data)
		clear(data)
		data = text
	}
	return secret.New(version, began, time.Time{}, data), nil
}

// identifies reports whether name, the resource name in an answer, is of the
// version that ref asks for, and its number. The answer has the project's number
// where the reference mostly has its ID.
func (s *store) identifies(name string, ref secret.Ref) (version string, ok bool) {
	got, err := secret.ParseRef(name)
	if err != nil || got.Kind != secret.KindGCPSecretManager || got.Name != ref.Name || !isNumber(got.Version) ||
		name != got.Store+"/secrets/"+got.Name+"/versions/"+got.Version { // it has other spellings in references
		return "", false
	}
	if isNumber(ref.Version) && got.Version != ref.Version {
		return "", false
	}
	askedProject, askedPlace, _ := strings.Cut(strings.TrimPrefix(ref.Store, "projects/"), "/")
	gotProject, gotPlace, _ := strings.Cut(strings.TrimPrefix(got.Store, "projects/"), "/")
	if askedPlace != gotPlace {
		return "", false
	}
	if askedProject != gotProject && (isNumber(askedProject) || !isNumber(gotProject) || !s.numbers.agree(askedProject, gotProject)) {
		return "", false
	}
	return got.Version, true
}

// isNumber reports whether a canonical project or version is a number. IDs and
// aliases begin with a letter.
func isNumber(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// numbers are the projects' numbers by ID, as answers told them. What cannot be
// known beforehand can still not change: a project has one number for ever, and
// no two have the same. It is safe for concurrent use.
type numbers struct {
	mu   sync.Mutex
	byID map[string]string
}

// agree notes that the project has the number. It is false if that contradicts
// what was noted; which of the two is wrong nobody can tell, so that the note is
// dropped and the next answer decides.
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
