package awssm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	eventARN  = storeARN + ":secret:prod/db-AbCdEf"
	versionA  = "4c8f9d0a-1c2b-4a7e-9f25-6b1e0c9d4a10"
	eventTime = "2026-11-29T14:00:00Z"
)

// The documented events, as in the user guide of Secrets Manager, "Monitor AWS Secrets
// Manager secrets with EventBridge".
const (
	nativeEvent = `{"version":"0","id":"6a7e8feb-b491-4cf7-a9f1-bf3703467718","detail-type":"Secret Label Updated","source":"aws.secretsmanager",` +
		`"account":"123456789012","time":"2026-11-29T14:00:00Z","region":"eu-west-1","resources":["` + eventARN + `"],` +
		`"detail":{"name":"prod/db","labelUpdated":"AWSCURRENT","versionId":"` + versionA + `"}}`
	rotated = `{"version":"0","id":"1","detail-type":"AWS Service Event via CloudTrail","source":"aws.secretsmanager","account":"123456789012",` +
		`"time":"2026-11-29T14:00:00Z","region":"eu-west-1","resources":[],"detail":{"eventVersion":"1.08","userIdentity":{"invokedBy":"secretsmanager.amazonaws.com"},` +
		`"eventTime":"2026-11-29T13:59:59Z","eventSource":"secretsmanager.amazonaws.com","eventName":"RotationSucceeded","awsRegion":"eu-west-1","eventType":"AwsServiceEvent",` +
		`"additionalEventData":{"SecretId":"` + eventARN + `"}}}`
)

// call returns an event of CloudTrail about a call.
func cloudTrail(name, request, response, more string) string {
	return `{"version":"0","id":"1","detail-type":"AWS API Call via CloudTrail","source":"aws.secretsmanager","account":"123456789012","time":"` + eventTime + `","region":"eu-west-1","resources":[],` +
		`"detail":{"eventVersion":"1.08","userIdentity":{"type":"AssumedRole","arn":"arn:aws:sts::123456789012:assumed-role/r/s"},"eventTime":"2026-11-29T13:59:59Z",` +
		`"eventSource":"secretsmanager.amazonaws.com","eventName":"` + name + `","awsRegion":"eu-west-1","requestParameters":` + request + `,"responseElements":` + response + `,` +
		`"eventType":"AwsApiCall"` + more + `}}`
}

// sns returns a notification of SNS.
func sns(message string) string {
	b, _ := json.Marshal(map[string]string{"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:eu-west-1:123456789012:t", "Message": message, "Timestamp": eventTime, "Signature": "x"})
	return string(b)
}

func TestParseMessage(t *testing.T) {
	// short describes events: "TYPE STORE NAME-SUFFIX LABEL=VERSION TIME".
	const europe = "aws eu-west-1 123456789012 "
	current := func(kind string) string { return kind + ": " + europe + "prod/db-AbCdEf *=" + versionA + " 14:00:00" }
	unknown := func(kind string) string { return kind + ": " + europe + "prod/db-AbCdEf *= 14:00:00" }
	both := func(kind, change string) string { // of what a person has typed
		return kind + ": " + europe + "prod/db-AbCdEf " + change + " 14:00:00, " + kind + ": " + europe + "prod/db " + change + " 14:00:00"
	}
	replace := func(in string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(in) }
	id, response := `{"secretId":"`+eventARN+`"}`, `{"arn":"`+eventARN+`"}`
	for name, tt := range map[string]struct{ body, want string }{
		"native":                              {nativeEvent, current(labelUpdated)},
		"pretty-printed":                      {indentJSON(t, nativeEvent), current(labelUpdated)},
		"another label":                       {replace(nativeEvent, "AWSCURRENT", "BLUE"), labelUpdated + ": " + europe + "prod/db-AbCdEf BLUE=" + versionA + " 14:00:00"},
		"a label that no reference has":       {replace(nativeEvent, "AWSCURRENT", "a b"), unknown(labelUpdated)},
		"no label":                            {replace(nativeEvent, `"labelUpdated":"AWSCURRENT",`, ""), unknown(labelUpdated)},
		"odd version":                         {replace(nativeEvent, versionA, "v1"), unknown(labelUpdated)},
		"blanks and cases":                    {replace(nativeEvent, `"`+versionA, `" `+versionA, `"AWSCURRENT"`, `" awscurrent "`, "Secret Label Updated", "secret label updated", `"detail"`, `"Detail"`, "versionId", "VersionID", "resources", "RESOURCES"), current(labelUpdated)},
		"nulls":                               {replace(nativeEvent, `"123456789012"`, "null", `"prod/db"`, "null", `"`+versionA+`"`, "null", `"6a7e8feb-b491-4cf7-a9f1-bf3703467718"`, "null"), unknown(labelUpdated)},
		"numbers and lists for texts":         {replace(nativeEvent, `"123456789012"`, "123456789012", `"prod/db"`, "[1]", `"AWSCURRENT"`, `{"a":1}`), unknown(labelUpdated)},
		"no resources":                        {replace(nativeEvent, `["`+eventARN+`"]`, "[]"), labelUpdated + ": " + europe + "prod/db *=" + versionA + " 14:00:00"},
		"resources are one text":              {replace(nativeEvent, `["`+eventARN+`"]`, `"`+eventARN+`"`), current(labelUpdated)},
		"resource of another service":         {replace(nativeEvent, `["`+eventARN+`"]`, `["arn:aws:iam::123456789012:role/r"]`), labelUpdated + ": " + europe + "prod/db *=" + versionA + " 14:00:00"},
		"two resources":                       {replace(nativeEvent, `["`+eventARN+`"]`, `["`+eventARN+`","`+eventARN+`","`+storeARN+`:secret:x-AbCdEf"]`), current(labelUpdated) + ", " + labelUpdated + ": " + europe + "x-AbCdEf *=" + versionA + " 14:00:00"},
		"another account and region":          {replace(nativeEvent, ":eu-west-1:123456789012:", ":us-east-1:210987654321:"), labelUpdated + ": aws us-east-1 210987654321 prod/db-AbCdEf *=" + versionA + " 14:00:00"},
		"China":                               {replace(nativeEvent, "arn:aws:", "arn:aws-cn:", "eu-west-1", "cn-north-1"), labelUpdated + ": aws-cn cn-north-1 123456789012 prod/db-AbCdEf *=" + versionA + " 14:00:00"},
		"GovCloud":                            {replace(nativeEvent, "arn:aws:", "arn:aws-us-gov:", "eu-west-1", "us-gov-west-1"), labelUpdated + ": aws-us-gov us-gov-west-1 123456789012 prod/db-AbCdEf *=" + versionA + " 14:00:00"},
		"a region of another partition":       {replace(nativeEvent, "arn:aws:", "arn:aws-cn:", `"prod/db"`, "null"), noSecret},
		"no time":                             {replace(nativeEvent, eventTime, "yesterday"), labelUpdated + ": " + europe + "prod/db-AbCdEf *=" + versionA},
		"detail alone":                        {`{"name":"prod/db","labelUpdated":"AWSCURRENT","versionId":"` + versionA + `"}`, untyped + ": " + europe + "prod/db *=" + versionA},
		"detail alone, of another region":     {`{"name":"prod/db","region":"us-east-1","account":"210987654321"}`, untyped + ": aws us-east-1 210987654321 prod/db *="},
		"detail as a text":                    {replace(nativeEvent, `"detail":{`, `"detail":"{\"labelUpdated\":\"AWSCURRENT\",\"versionId\":\"`+versionA+`\"}","x":{`), current(labelUpdated)},
		"detail is a list":                    {replace(nativeEvent, `"detail":{`, `"detail":[],"x":{`), unknown(labelUpdated)},
		"renamed fields":                      {`{"type":"rotated","arn":"` + eventARN + `","version":"` + versionA + `"}`, untyped + ": " + europe + "prod/db-AbCdEf *="},
		"the ARN alone":                       {`"` + eventARN + `"`, untyped + ": " + europe + "prod/db-AbCdEf *="},
		"resources alone":                     {`["` + eventARN + `"]`, untyped + ": " + europe + "prod/db-AbCdEf *="},
		"a list of events":                    {"[" + nativeEvent + "," + rotated + `,{"a":1}]`, current(labelUpdated) + ", " + unknown("RotationSucceeded")},
		"a list without events":               {`[{"a":1},2]`, notObject},
		"an empty list":                       {"[]", notObject},
		"a list in a list":                    {"[[" + nativeEvent + "]]", notObject},
		"base64":                              {base64.StdEncoding.EncodeToString([]byte(nativeEvent)) + "\n", current(labelUpdated)},
		"from SNS":                            {sns(nativeEvent), current(labelUpdated)},
		"from SNS, other cases":               {replace(sns(nativeEvent), `"Type"`, `"type"`, "Notification", "notification", `"Message"`, `"message"`), current(labelUpdated)},
		"from SNS, not JSON":                  {sns("rotated"), notJSON},
		"from SNS, twice":                     {sns(sns(nativeEvent)), noSecret},
		"a subscription":                      {replace(sns("x"), "Notification", "SubscriptionConfirmation"), confirmation},
		"rotated":                             {rotated, unknown("RotationSucceeded")},
		"rotated, other case":                 {replace(rotated, "SecretId", "secretid", "AWS Service Event via CloudTrail", "AWS Service Event Via CloudTrail"), unknown("RotationSucceeded")},
		"rotated, without the type":           {replace(rotated, `"detail-type":"AWS Service Event via CloudTrail",`, ""), unknown("RotationSucceeded")},
		"rotation failed":                     {replace(rotated, "RotationSucceeded", "RotationFailed"), ""},
		"put":                                 {cloudTrail("PutSecretValue", `{"secretId":"prod/db","clientRequestToken":"`+versionA+`"}`, response, ""), current("PutSecretValue")},
		"put, aRN":                            {cloudTrail("PutSecretValue", `{"secretId":"prod/db","clientRequestToken":"`+versionA+`"}`, `{"aRN":"`+eventARN+`"}`, ""), current("PutSecretValue")},
		"put, without the type":               {replace(cloudTrail("PutSecretValue", `{"secretId":"prod/db","clientRequestToken":"`+versionA+`"}`, response, ""), `"detail-type":"AWS API Call via CloudTrail",`, ""), current("PutSecretValue")},
		"put, with the version in the answer": {cloudTrail("PutSecretValue", id, `{"ARN":"`+eventARN+`","VersionId":"`+versionA+`"}`, ""), current("PutSecretValue")},
		"put for later":                       {cloudTrail("PutSecretValue", `{"secretId":"prod/db","versionStages":["AWSPENDING"],"clientRequestToken":"`+versionA+`"}`, response, ""), "PutSecretValue: " + europe + "prod/db-AbCdEf AWSPENDING=" + versionA + " 14:00:00"},
		"put with labels":                     {cloudTrail("PutSecretValue", `{"versionStages":["A","AWSCURRENT"],"clientRequestToken":"`+versionA+`"}`, response, ""), current("PutSecretValue")},
		"put, name only":                      {cloudTrail("PutSecretValue", `{"secretId":"prod/db","clientRequestToken":"`+versionA+`"}`, "null", ""), "PutSecretValue: " + europe + "prod/db *=" + versionA + " 14:00:00"},
		"put, ARN that was typed":             {cloudTrail("PutSecretValue", id, "null", ""), replace(both("PutSecretValue", "*="), "123456789012 prod/db *", "123456789012 prod/db-AbCdEf *")},
		"put, incomplete ARN":                 {cloudTrail("PutSecretValue", `{"secretId":"`+storeARN+`:secret:prod/db"}`, "null", ""), "PutSecretValue: " + europe + "prod/db *= 14:00:00"},
		"put failed":                          {cloudTrail("PutSecretValue", id, "null", `,"errorCode":"AccessDenied","errorMessage":"no"`), ""},
		"updated":                             {cloudTrail("UpdateSecret", `{"secretId":"prod/db","clientRequestToken":"`+versionA+`"}`, response, ""), unknown("UpdateSecret")},
		"created":                             {cloudTrail("CreateSecret", `{"name":"prod/db"}`, "null", ""), "CreateSecret: " + europe + "prod/db *= 14:00:00"},
		"stage moved":                         {cloudTrail("UpdateSecretVersionStage", `{"secretId":"prod/db","versionStage":"AWSCURRENT","moveToVersionId":"`+versionA+`"}`, response, ""), current("UpdateSecretVersionStage")},
		"stage removed":                       {cloudTrail("UpdateSecretVersionStage", `{"secretId":"prod/db","versionStage":"BLUE","removeFromVersionId":"`+versionA+`"}`, response, ""), "UpdateSecretVersionStage: " + europe + "prod/db-AbCdEf BLUE= 14:00:00"},
		"restored":                            {cloudTrail("RestoreSecret", id, response, ""), unknown("RestoreSecret")},
		"deleted":                             {cloudTrail("DeleteSecret", id, response, ""), unknown("DeleteSecret")},
		"rotation canceled":                   {cloudTrail("CancelRotateSecret", id, response, ""), ""},
		"rotation started":                    {cloudTrail("RotateSecret", id, response, ""), ""},
		"read":                                {cloudTrail("GetSecretValue", id, "null", ""), ""},
		"unknown call":                        {cloudTrail("ReinventSecret", id, response, ""), ""},
		"call of another service":             {replace(cloudTrail("PutSecretValue", id, response, ""), "secretsmanager.amazonaws.com", "kms.amazonaws.com"), notEvent},
		"call without a secret":               {cloudTrail("PutSecretValue", "null", "null", ""), noSecret},
		"unknown type":                        {replace(nativeEvent, "Secret Label Updated", "Secret Repainted"), ""},
		"unknown type of another source":      {replace(nativeEvent, "Secret Label Updated", "Object Created", "aws.secretsmanager", "aws.s3"), notEvent},
		"names nothing":                       {`{}`, noSecret},
		"a name that no reference has":        {`{"name":"a b"}`, noSecret},
		"a name with another reference":       {`{"name":"a#b?decode=base64::c"}`, noSecret},
		"an ARN with a key":                   {`"` + eventARN + `::password"`, noSecret},
		"an ARN with a version":               {`"` + eventARN + `#` + versionA + `"`, noSecret},
		"empty":                               {"", notJSON},
		"blank":                               {" \n", notJSON},
		"text":                                {"rotated", notJSON},
		"number":                              {"7", notObject},
		"null":                                {"null", notObject},
		"cut off":                             {nativeEvent[:100], notJSON},
		"too deep":                            {strings.Repeat(`{"detail":`, 20000) + "1" + strings.Repeat("}", 20000), notJSON},
		"deep":                                {strings.Repeat(`{"detail":`, 9000) + "1" + strings.Repeat("}", 9000), noSecret},
		"huge":                                {`{"padding":"` + strings.Repeat("x", 1<<20) + `",` + nativeEvent[1:], tooLarge},
		"many resources":                      {`{"resources":[` + strings.Repeat(`"x",`, 50_000) + `"` + eventARN + `"]}`, noSecret},
	} {
		t.Run(name, func(t *testing.T) {
			events, problem := messageParser{region: region, account: account}.parse(tt.body)
			got := make([]string, len(events))
			for i, e := range events {
				got[i] = describe(e)
			}
			if got := strings.Join(got, ", ") + problem; got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			checkEvents(t, events, problem)
		})
	}
}

// TestLargeMessage: a message that is larger than any event is not parsed.
func TestLargeMessage(t *testing.T) {
	p := messageParser{region: region, account: account}
	fill := func(size int) string { return nativeEvent + strings.Repeat(" ", size-len(nativeEvent)) }
	if events, problem := p.parse(fill(maxBody)); len(events) != 1 || problem != "" {
		t.Errorf("%d events, %q", len(events), problem)
	}
	if events, problem := p.parse(fill(maxBody + 1)); len(events) != 0 || problem != tooLarge {
		t.Errorf("%d events, %q", len(events), problem)
	}
}

// describe formats an event.
func describe(e provider.Event) string {
	store := strings.Split(e.Store, ":")
	at := ""
	if !e.At.IsZero() {
		at = " " + e.At.Format(time.TimeOnly)
	}
	name := e.Name
	if e.Suffix != "" {
		name += "-" + e.Suffix
	}
	return fmt.Sprintf("%s: %s %s %s %s %s=%s%s", e.Type, store[1], store[3], store[4], name, e.Label, e.Version, at)
}

func indentJSON(t *testing.T, in string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(in), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return "\n" + string(b) + "\n"
}

// checkEvents checks what holds for every message: events name secrets as references do, and
// nothing else of the message remains.
func checkEvents(t *testing.T, events []provider.Event, problem string) {
	t.Helper()
	if len(events) > 0 && problem != "" || len(events) > maxEvents {
		t.Errorf("%d events and the problem %q", len(events), problem)
	}
	if problem != "" && !slices.Contains([]string{tooLarge, notJSON, notObject, notEvent, noSecret, confirmation}, problem) {
		t.Errorf("the problem is a text of the message: %q", problem)
	}
	types := []string{labelUpdated, untyped, "RotationSucceeded", "PutSecretValue", "UpdateSecret", "CreateSecret", "UpdateSecretVersionStage", "RestoreSecret", "DeleteSecret"}
	for i, e := range events {
		reference := e.Store + ":secret:" + e.Name + "-" + e.Suffix
		if e.Suffix == "" {
			reference = secret.AWSEndpoint(regionOf(e.Store)) + "::" + e.Name
		}
		if e.Label != provider.AnyLabel {
			reference += "#" + e.Label
		}
		ref, err := secret.ParseRef(reference)
		if err != nil || ref.Name != e.Name || ref.Suffix != e.Suffix || e.Suffix != "" && ref.Store != e.Store {
			t.Errorf("%+v: no reference can name it: %v", e, err)
		}
		if e.Label != provider.AnyLabel && ref.Version != e.Label {
			t.Errorf("%+v: no reference has the label", e)
		}
		if store, err := secret.KindAWSSecretsManager.ParseStore(e.Store); err != nil || store != e.Store || !strings.HasPrefix(store, "arn:") {
			t.Errorf("%+v: not a store: %v", e, err)
		}
		if e.Version != "" && !secret.IsAWSVersionID(e.Version) || !slices.Contains(types, e.Type) || slices.Contains(events[:i], e) {
			t.Errorf("%+v", e)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	id := `{"secretId":"` + eventARN + `","versionStages":["A"],"clientRequestToken":"` + versionA + `"}`
	for _, body := range []string{
		nativeEvent, rotated, sns(nativeEvent), "[" + nativeEvent + "]", `"` + eventARN + `"`, cloudTrail("PutSecretValue", id, `{"aRN":"`+eventARN+`"}`, ""),
		cloudTrail("UpdateSecretVersionStage", `{"secretId":"x","versionStage":"B","moveToVersionId":"`+versionA+`"}`, "null", ""), cloudTrail("DeleteSecret", id, "null", `,"errorCode":"x"`),
		base64.StdEncoding.EncodeToString([]byte(rotated)), `{"name":"a","labelUpdated":"X","versionId":1,"detail":"{}"}`, "", "[", "null",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		events, problem := messageParser{region: region, account: account}.parse(body)
		checkEvents(t, events, problem)
		if again, _ := (messageParser{region: region, account: account}).parse(body); !cmp.Equal(events, again) {
			t.Error("other events at the second time")
		}
	})
}
