package io.github.secretbroker.connect;

import static io.github.secretbroker.connect.Bench.REFERENCE;
import static io.github.secretbroker.connect.Bench.failure;
import static io.github.secretbroker.connect.Bench.get;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.Duration;
import com.google.protobuf.MessageLite;
import io.github.secretbroker.v1.ConfigError;
import io.github.secretbroker.v1.ResolveRequest;
import io.github.secretbroker.v1.ResolveResponse;
import io.github.secretbroker.v1.ResolvedConfig;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.common.config.ConfigData;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.config.ConfigTransformer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests the values that a connector receives, and those that it must not receive. */
class ResolveTest {
  @TempDir Path dir;
  private Bench bench;
  private SecretBrokerConfigProvider provider;

  @BeforeEach
  void start() {
    bench = new Bench(dir);
    provider = bench.provider();
  }

  @AfterEach
  void stop() {
    bench.close();
  }

  private void answer(ResolvedConfig.Builder... configs) {
    bench.broker.answer = request -> {
      ResolveResponse.Builder response = ResolveResponse.newBuilder().setRequestId("request-7");
      for (int i = 0; i < configs.length; i++) {
        response.putConfigs("k" + i, configs[i].build());
      }
      return response.build();
    };
  }

  private static ResolvedConfig.Builder value(String text) {
    return ResolvedConfig.newBuilder().setValue(text);
  }

  @Test
  void kafkaSplitsThePlaceholderAsMeant() {
    ConfigTransformer transformer = new ConfigTransformer(Map.of("secretbroker", provider));
    Map<String, String> resolved = transformer.transform(Map.of(
        "password", "${secretbroker:cspi:" + REFERENCE + "}",
        "url", "jdbc:x?user=${secretbroker:cspi:https://my-vault.vault.azure.net::db-secret::user}&p=1",
        "other", "plain")).data();
    assertEquals("value of " + REFERENCE, resolved.get("password"));
    assertEquals("jdbc:x?user=value of https://my-vault.vault.azure.net::db-secret::user&p=1", resolved.get("url"));
    assertEquals("plain", resolved.get("other"));
    assertEquals(1, bench.broker.requests.size(), "one call for all references of an integration");
    assertEquals("cspi", bench.broker.requests.get(0).getIntegrationId());
    assertTrue(bench.broker.requests.get(0).getAllowPartial());
    assertFalse(bench.broker.requests.get(0).hasMaxAge());
    assertEquals(Bench.WORKER, bench.broker.callers.get(0));
  }

  /** Fields and reasons that this release does not know change nothing else. */
  @Test
  void answersOfTheNextReleaseAreUnderstood() {
    bench.broker.answer = request -> {
      try {
        ResolvedConfig config = ResolvedConfig.parseFrom(withNextField(value("known").build()));
        return ResolveResponse.parseFrom(withNextField(
            ResolveResponse.newBuilder().setRequestId("request-7").putConfigs("k0", config).build()));
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    };
    assertEquals("known", get(provider, REFERENCE).data().get(REFERENCE));

    bench.broker.answer = request -> {
      try {
        ConfigError error = ConfigError.parseFrom(withNextField(
            ConfigError.newBuilder().setReason("REASON_OF_THE_NEXT_RELEASE").setMessage("do this").build()));
        return ResolveResponse.parseFrom(withNextField(
            ResolveResponse.newBuilder().setRequestId("request-8").putErrors("k0", error).build()));
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    };
    assertTrue(failure(provider, REFERENCE).contains("REASON_OF_THE_NEXT_RELEASE for " + REFERENCE + ": do this"));
  }

  /** The encoding of a message with a field that this release does not know. */
  private static byte[] withNextField(MessageLite message) throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    message.writeTo(out);
    CodedOutputStream coded = CodedOutputStream.newInstance(out);
    coded.writeString(900, "next");
    coded.flush();
    return out.toByteArray();
  }

  @Test
  void everyReasonIsTold() {
    bench.broker.answer = request -> {
      ResolveResponse.Builder response = ResolveResponse.newBuilder().setRequestId("request-9")
          .putConfigs("k0", value("canary").build());
      response.putErrors("k1", ConfigError.newBuilder().setReason("INVALID_REFERENCE").setMessage("bad store").build());
      response.putErrors("k2", ConfigError.newBuilder().setReason("INVALID_REFERENCE").setMessage("bad name").build());
      response.putErrors("k3", ConfigError.newBuilder().setReason("SECRET_NOT_FOUND").setMessage("fix the name").build());
      response.putErrors("k4", ConfigError.newBuilder().setReason("INVALID_REFERENCE").setMessage("no '::'").build());
      return response.build();
    };
    String text = failure(provider, REFERENCE, "https://v.vault.azure.net::gone", "pasted-canary",
        "https://v.vault.azure.net::bad_canary", "https://u:canary@v.vault.azure.net::n");
    assertEquals("secretbroker: 4 of 5 references through integration cspi cannot be resolved (request request-9)\n"
        + "  INVALID_REFERENCE for a reference that is not shown because it may be a value: bad store\n"
        + "  INVALID_REFERENCE for https://v.vault.azure.net::...: bad name\n"
        + "  SECRET_NOT_FOUND for https://v.vault.azure.net::gone: fix the name\n"
        + "  INVALID_REFERENCE for a reference that is not shown because it may be a value: no '::'", text);
  }

  @Test
  void emptyMissingAndBinaryValuesAreRefused() {
    answer(value(""), value("canary"));
    assertTrue(failure(provider, REFERENCE, "https://v.vault.azure.net::b")
        .contains("1 of 2 references through integration cspi cannot be resolved (request request-7): UNUSABLE_VALUE for "
            + REFERENCE + ": the value is empty"));
    answer(value("").setDecodedValue(ByteString.copyFromUtf8("canary")));
    assertTrue(failure(provider, REFERENCE).contains("leave out ?decode=base64"));
    answer();
    assertTrue(failure(provider, REFERENCE).contains("returned no result"));
  }

  @Test
  void aTimeToLiveIsTheShortestTimeLeftAndNothingElse() {
    answer(value("a"));
    assertNull(get(provider, REFERENCE).ttl(), "no secret has an end");
    answer(value("a"), value("b").setTimeLeft(seconds(3600)), value("c").setTimeLeft(Duration.newBuilder().setSeconds(90).setNanos(5_000_000)));
    assertEquals(90_005L, get(provider, REFERENCE, "https://v.vault.azure.net::b", "https://v.vault.azure.net::c").ttl());
    answer(value("a").setTimeLeft(seconds(0)));
    assertNull(get(provider, REFERENCE).ttl(), "never zero");
    answer(value("a").setTimeLeft(seconds(-5)));
    assertNull(get(provider, REFERENCE).ttl(), "never negative");
    answer(value("a").setTimeLeft(seconds(315_576_000_000L))); // the longest of the wire
    assertEquals(315_576_000_000_000L, get(provider, REFERENCE).ttl());
  }

  private static Duration seconds(long n) {
    return Duration.newBuilder().setSeconds(n).build();
  }

  @Test
  void whatIsNoIntegrationIsExplained() {
    for (Map.Entry<String, String> e : Map.of(
        "", "names no integration", "https", "where the integration belongs", "arn", "where the integration belongs",
        "hunter2 canary", "not a valid integration id", "Cspi", "has 1 to 64 lower-case letters",
        ".", "not a valid integration id", "..", "not a valid integration id", "a..b", "no two dots in a row",
        "cspi-", "begins and ends", "a".repeat(65), "not a valid integration id").entrySet()) {
      String text = assertThrows(ConfigException.class, () -> provider.get(e.getKey(), Set.of("//v::n"))).getMessage();
      assertTrue(text.contains(e.getValue()), text);
      assertTrue(text.contains("${secretbroker:<integration id>:<reference>}"), text);
      assertFalse(text.contains("canary"), text);
    }
    assertThrows(ConfigException.class, () -> provider.get(null, Set.of("x")));
    assertThrows(ConfigException.class, () -> provider.get("cspi"));
    assertEquals(0, bench.broker.requests.size());
  }

  @Test
  void thePathMayNameTheConnector() {
    ConfigTransformer transformer = new ConfigTransformer(Map.of("secretbroker", provider));
    transformer.transform(Map.of(
        "password", "${secretbroker:cspi/orders%20sink%3A%2Fa%7D%25%C3%A4:" + REFERENCE + "}",
        "user", "${secretbroker:cspi:" + REFERENCE + "}"));
    assertEquals(List.of("", "orders sink:/a}%ä"),
        bench.broker.requests.stream().map(ResolveRequest::getConnector).sorted().toList());
    bench.broker.requests.forEach(request -> assertEquals("cspi", request.getIntegrationId()));
    for (Map.Entry<String, String> e : Map.of(
        "orders", "orders", "a+b", "a+b", "%F0%9F%98%80", "\uD83D\uDE00", "\uD83D\uDE00", "\uD83D\uDE00", "a".repeat(256), "a".repeat(256)).entrySet()) {
      assertEquals(e.getValue(), Target.parse("cspi/" + e.getKey()).connector());
    }
  }

  @Test
  void whatIsNoConnectorIsExplained() {
    for (Map.Entry<String, String> e : Map.ofEntries(
        Map.entry("", "is empty"), Map.entry("canary/b", "write %2F"), Map.entry("canary%", "percent-encoded"), Map.entry("canary%2", "percent-encoded"),
        Map.entry("canary%2g", "percent-encoded"), Map.entry("canary%-1", "percent-encoded"), Map.entry("canary%ff", "percent-encoded"), Map.entry("canary%C0%80", "percent-encoded"),
        Map.entry("canary%ED%A0%80", "percent-encoded"), Map.entry("canary\uD83D", "percent-encoded"), Map.entry("canary%0A", "control character"),
        Map.entry("canary%E2%80%A8", "control character"), Map.entry("canary%C2%85", "control character"), Map.entry("canary".repeat(43), "longer than 256 bytes"))
        .entrySet()) {
      String text = assertThrows(ConfigException.class, () -> provider.get("cspi/" + e.getKey(), Set.of(REFERENCE)), e.getKey()).getMessage();
      assertTrue(text.contains(e.getValue()), text);
      assertFalse(text.contains("canary"), text);
    }
    assertTrue(assertThrows(ConfigException.class, () -> provider.get("Cspi/x", Set.of(REFERENCE))).getMessage().contains("not a valid integration id"));
    assertEquals(0, bench.broker.requests.size());
  }

  @Test
  void nothingIsAskedForNothing() {
    ConfigData data = provider.get("cspi", Set.of());
    assertEquals(Map.of(), data.data());
    assertNull(data.ttl());
    assertEquals(0, bench.broker.requests.size());
  }

  @Test
  void maxAgeIsPassedOn() {
    Map<String, String> settings = bench.settings();
    settings.put("max.age.ms", "1500");
    get(bench.provider(settings), REFERENCE);
    assertEquals(Duration.newBuilder().setSeconds(1).setNanos(500_000_000).build(),
        bench.broker.requests.get(0).getMaxAge());
  }

  @Test
  void theAnswerIsNotPrinted() {
    assertFalse(new Answer(java.util.List.of("canary"), java.util.List.of("v1"), null).toString().contains("canary"));
  }
}
