package awssm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

// fakeSecret is one secret in one region.
type fakeSecret struct {
	account, name, suffix string
	versions              []*fakeVersion
	deleted               bool
	rotates               bool
	next                  time.Time
}

type fakeVersion struct {
	id     string
	stages []string
	text   *string
	binary []byte
}

func (s *fakeSecret) arn(region string) string {
	return "arn:aws:secretsmanager:" + region + ":" + s.account + ":secret:" + s.name + "-" + s.suffix
}

// put adds a version with the given text as the current one.
func (f *fake) put(region, name, text string) *fakeSecret {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.secrets[region] {
		if s.name == name && s.account == account {
			f.add(s, &fakeVersion{text: &text})
			return s
		}
	}
	s := &fakeSecret{account: account, name: name, suffix: fmt.Sprintf("Sfx%03d", len(f.secrets[region]))}
	f.add(s, &fakeVersion{text: &text})
	f.secrets[region] = append(f.secrets[region], s)
	return s
}

// add moves the staging labels as AWS does. f.mu is held.
func (f *fake) add(s *fakeSecret, v *fakeVersion) {
	v.id = fmt.Sprintf("00000000-0000-4000-8000-%012d", len(s.versions)+1)
	v.stages = []string{"AWSCURRENT"}
	for _, old := range s.versions {
		if slices.Contains(old.stages, "AWSCURRENT") {
			old.stages = []string{"AWSPREVIOUS"}
		} else {
			old.stages = nil
		}
	}
	s.versions = append(s.versions, v)
}

// fakeInput is the input of the operations that read.
type fakeInput struct{ SecretId, VersionId, VersionStage string }

func (f *fake) serveSecrets(w http.ResponseWriter, r *http.Request, region string) {
	body := readAll(f, r)
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	if f.begin(w, r, operation, body) {
		return
	}
	who, code := f.signer(r, body, "secretsmanager", region)
	if code == "" && who.role == "" {
		code = "AccessDeniedException" // the base credential may assume the role and nothing else
	}
	if code != "" {
		writeFault(w, http.StatusBadRequest, code, "User is not authorized: "+canary)
		return
	}
	var in fakeInput
	providertest.Must(f, json.Unmarshal(body, &in))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads = append(f.reads, in)
	s := f.find(region, in.SecretId)
	if s == nil {
		writeFault(w, http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
		return
	}
	switch operation {
	case "DescribeSecret":
		out := map[string]any{"ARN": s.arn(region), "Name": s.name}
		if s.rotates {
			out["RotationEnabled"], out["NextRotationDate"] = true, s.next.Unix()
		}
		writeJSON(w, out)
	case "GetSecretValue":
		s.serve(w, region, in)
	default:
		f.faults = append(f.faults, "operation "+operation)
	}
}

// find looks a secret up as AWS does: a name, a complete ARN, or a part of an ARN
// that leaves out the end.
func (f *fake) find(region, id string) *fakeSecret {
	for _, s := range f.secrets[region] {
		if id == s.arn(region) || id == s.name && s.account == account {
			return s
		}
	}
	for _, s := range f.secrets[region] {
		if id == strings.TrimSuffix(s.arn(region), "-"+s.suffix) {
			return s
		}
	}
	return nil
}

func (s *fakeSecret) serve(w http.ResponseWriter, region string, in fakeInput) {
	if s.deleted {
		writeFault(w, http.StatusBadRequest, "InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
		return
	}
	stage := in.VersionStage
	if stage == "" && in.VersionId == "" {
		stage = "AWSCURRENT"
	}
	for _, v := range s.versions {
		if in.VersionId != "" && v.id != in.VersionId || stage != "" && !slices.Contains(v.stages, stage) || v.text == nil && v.binary == nil {
			continue
		}
		out := map[string]any{"ARN": s.arn(region), "Name": s.name, "VersionId": v.id, "VersionStages": v.stages, "CreatedDate": 1.5e9}
		if v.text != nil {
			out["SecretString"] = *v.text
		} else {
			out["SecretBinary"] = v.binary
		}
		writeJSON(w, out)
		return
	}
	writeFault(w, http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret value.")
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(v)
}

func writeFault(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "c0ffee00-1111-2222-3333-444444444444")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "Message": message})
}

// assumed is what STS was asked for.
type assumed struct {
	action string
	form   url.Values
}

func (f *fake) serveSTS(w http.ResponseWriter, r *http.Request) {
	body := readAll(f, r)
	form, err := url.ParseQuery(string(body))
	providertest.Must(f, err)
	action := form.Get("Action")
	if f.begin(w, r, action, body) {
		return
	}
	f.mu.Lock()
	f.asked = append(f.asked, assumed{action, form})
	f.mu.Unlock()
	switch action {
	case "AssumeRole":
		who, code := f.signer(r, body, "sts", region)
		if code == "UnrecognizedClientException" {
			code = "InvalidClientTokenId" // STS has its own words
		}
		if code != "" {
			writeSTSFault(w, http.StatusForbidden, code)
			return
		}
		if who.role == roleARN || form.Get("ExternalId") != externalID {
			writeSTSFault(w, http.StatusForbidden, "AccessDenied")
			return
		}
	case "AssumeRoleWithWebIdentity":
		if r.Header.Get("Authorization") != "" {
			f.fault("AssumeRoleWithWebIdentity is signed")
		}
		if form.Get("WebIdentityToken") != oidcToken {
			writeSTSFault(w, http.StatusBadRequest, "InvalidIdentityToken")
			return
		}
	default:
		f.fault("action " + action)
		return
	}
	f.issue(w, action, form.Get("RoleArn"), form.Get("RoleSessionName"))
}

func (f *fake) issue(w http.ResponseWriter, action, role, session string) {
	f.mu.Lock()
	f.session++
	keys := aws.Credentials{
		AccessKeyID:     fmt.Sprintf("ASIASESSION%d", f.session),
		SecretAccessKey: fmt.Sprintf("session-secret-%d", f.session),
		SessionToken:    fmt.Sprintf("session-token-%d", f.session),
	}
	f.keys[keys.AccessKeyID] = owner{keys, role}
	life := f.life
	f.mu.Unlock()
	parts := strings.Split(role, ":")
	name := parts[5][strings.LastIndex(parts[5], "/")+1:]
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult>
<AssumedRoleUser><AssumedRoleId>AROA:%[2]s</AssumedRoleId><Arn>arn:aws:sts::%[3]s:assumed-role/%[4]s/%[2]s</Arn></AssumedRoleUser>
<Credentials><AccessKeyId>%[5]s</AccessKeyId><SecretAccessKey>%[6]s</SecretAccessKey><SessionToken>%[7]s</SessionToken><Expiration>%[8]s</Expiration></Credentials>
</%[1]sResult><ResponseMetadata><RequestId>c0ffee</RequestId></ResponseMetadata></%[1]sResponse>`,
		action, session, parts[4], name, keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken, time.Now().Add(life).UTC().Format(time.RFC3339))
}

func writeSTSFault(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>not for you: %s %s</Message></Error><RequestId>c0ffee</RequestId></ErrorResponse>`, code, canary, baseSecret)
}
