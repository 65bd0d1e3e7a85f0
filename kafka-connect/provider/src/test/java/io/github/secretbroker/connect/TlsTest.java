package io.github.secretbroker.connect;

import static io.github.secretbroker.connect.Bench.REFERENCE;
import static io.github.secretbroker.connect.Bench.failure;
import static io.github.secretbroker.connect.Bench.get;
import static io.github.secretbroker.connect.TestAuthority.pem;
import static io.github.secretbroker.connect.TestAuthority.write;
import static io.github.secretbroker.connect.TestAuthority.writePem;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.kafka.common.config.ConfigException;
import org.bouncycastle.asn1.ASN1Encodable;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.sec.ECPrivateKey;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests which certificates and keys are accepted, their renewal, and the errors for invalid ones. */
class TlsTest {
  private static final String RENEWED = "spiffe://example.org/connect/renewed";

  @TempDir Path dir;
  private Bench bench;

  @BeforeEach
  void start() {
    bench = new Bench(dir);
  }

  @AfterEach
  void stop() {
    bench.close();
  }

  private Map<String, String> pkcs12() {
    bench.authority.writeKeystore(bench.file("worker.p12"), bench.file("worker.pw"), bench.authority.client(Bench.WORKER));
    bench.authority.writeTruststore(bench.file("trust.p12"), bench.file("trust.pw"));
    Map<String, String> settings = bench.settings();
    settings.keySet().removeIf(name -> name.startsWith("tls."));
    settings.put("tls.keystore.file", bench.file("worker.p12").toString());
    settings.put("tls.keystore.password.file", bench.file("worker.pw").toString());
    settings.put("tls.truststore.file", bench.file("trust.p12").toString());
    settings.put("tls.truststore.password.file", bench.file("trust.pw").toString());
    return settings;
  }

  /** Closes the connection, so that the next call opens a new one. */
  private void restartBroker() {
    int port = bench.broker.port();
    bench.broker.close();
    bench.broker = new FakeBroker(bench.authority, bench.server, port);
  }

  @Test
  void pkcs12IsAsGoodAsPem() {
    get(bench.provider(pkcs12()), REFERENCE);
    assertEquals(Bench.WORKER, bench.broker.callers.get(0));
  }

  @Test
  void rsaAndEd25519Keys() {
    for (String algorithm : new String[] {"RSA", "Ed25519"}) {
      TestAuthority.Issued issued =
          bench.authority.client("spiffe://example.org/" + algorithm, algorithm, algorithm.equals("RSA") ? 2048 : 255, Duration.ofHours(1));
      writePem(bench.file(algorithm + ".crt"), bench.file(algorithm + ".key"), issued);
      Map<String, String> settings = bench.settings();
      settings.put("tls.cert.file", bench.file(algorithm + ".crt").toString());
      settings.put("tls.key.file", bench.file(algorithm + ".key").toString());
      get(bench.provider(settings), REFERENCE);
      assertEquals("spiffe://example.org/" + algorithm, bench.broker.callers.get(bench.broker.callers.size() - 1));
    }
  }

  /** The formats that cert-manager writes by default, and those of openssl's older commands. */
  @Test
  void keysInOlderFormats() throws Exception {
    for (int size : new int[] {2048, 3072}) {
      expectUsable(bench.authority.client("spiffe://example.org/RSA-" + size, "RSA", size, Duration.ofHours(1)),
          key -> pem("RSA PRIVATE KEY", key.parsePrivateKey().toASN1Primitive().getEncoded()));
    }
    for (int size : new int[] {256, 384, 521}) {
      expectUsable(bench.authority.client("spiffe://example.org/EC-" + size, "EC", size, Duration.ofHours(1)),
          key -> pem("EC PARAMETERS", curve(key).toASN1Primitive().getEncoded())
              + pem("EC PRIVATE KEY", new ECPrivateKey(size, scalar(key), curve(key)).getEncoded()));
    }
  }

  private interface Format {
    String of(PrivateKeyInfo key) throws IOException;
  }

  private static ASN1Encodable curve(PrivateKeyInfo key) {
    return key.getPrivateKeyAlgorithm().getParameters();
  }

  private static java.math.BigInteger scalar(PrivateKeyInfo key) throws IOException {
    return ECPrivateKey.getInstance(key.parsePrivateKey()).getKey();
  }

  private void expectUsable(TestAuthority.Issued issued, Format format) throws Exception {
    writePem(bench.file("old.crt"), issued.certificate());
    write(bench.file("old.key"), format.of(PrivateKeyInfo.getInstance(issued.key().getEncoded())));
    Map<String, String> settings = bench.settings();
    settings.put("tls.cert.file", bench.file("old.crt").toString());
    settings.put("tls.key.file", bench.file("old.key").toString());
    SecretBrokerConfigProvider provider = bench.provider(settings);
    get(provider, REFERENCE);
    provider.close();
    String id = (String) issued.certificate().getSubjectAlternativeNames().iterator().next().get(1);
    assertEquals(id, bench.broker.callers.get(bench.broker.callers.size() - 1));
  }

  @Test
  void keysInOlderFormatsThatCannotBeUsed() throws Exception {
    PrivateKeyInfo key = PrivateKeyInfo.getInstance(bench.authority.client(Bench.WORKER).key().getEncoded());
    byte[] withoutCurve = new ECPrivateKey(256, scalar(key)).getEncoded();
    byte[] cut = java.util.Arrays.copyOf(withoutCurve, 20);
    String encrypted = pem("RSA PRIVATE KEY", new byte[] {1}).replaceFirst("\n",
        "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n");
    Map<String, String> faults = new LinkedHashMap<>();
    faults.put(pem("EC PRIVATE KEY", withoutCurve), "tls.key has a key without its curve; convert it with openssl pkcs8");
    faults.put(pem("EC PRIVATE KEY", cut), "tls.key has a key without its curve");
    faults.put(pem("RSA PRIVATE KEY", new byte[] {1}), "tls.key has a private key that Java cannot read");
    faults.put(encrypted, "tls.key is encrypted; use an unencrypted key");
    faults.put(pem("DSA PRIVATE KEY", new byte[] {1}), "tls.key has a key in the format DSA PRIVATE KEY; convert it");
    faults.put("-----BEGIN EC PRIVATE KEY-----\ncanary", "tls.key has a PEM block BEGIN EC PRIVATE KEY without its end");
    for (Map.Entry<String, String> fault : faults.entrySet()) {
      write(bench.file("tls.key"), fault.getKey());
      expectRefused(bench.settings(), fault.getValue());
    }
  }

  @Test
  void renewedFilesAreUsedForTheNextConnection() {
    Map<String, String> pkcs12 = pkcs12();
    for (Map<String, String> settings : java.util.List.of(bench.settings(), pkcs12)) {
      SecretBrokerConfigProvider provider = bench.provider(settings);
      get(provider, REFERENCE);
      TestAuthority.Issued renewed = bench.authority.client(RENEWED);
      writePem(bench.file("tls.crt"), bench.file("tls.key"), renewed);
      bench.authority.writeKeystore(bench.file("worker.p12"), bench.file("worker.pw"), renewed);
      restartBroker();
      get(provider, REFERENCE);
      // A resumed session would still have the old caller's identity.
      assertEquals(RENEWED, bench.broker.callers.get(0));
    }
  }

  @Test
  void halfARenewalChangesNothing() {
    SecretBrokerConfigProvider provider = bench.provider();
    TestAuthority.Issued renewed = bench.authority.client(RENEWED);
    writePem(bench.file("tls.crt"), renewed.certificate()); // and the key still is the old one
    get(provider, REFERENCE);
    assertEquals(Bench.WORKER, bench.broker.callers.get(0));
    int port = bench.broker.port();
    bench.broker.close();
    String text = failure(provider, REFERENCE);
    assertTrue(text.contains("cannot reach the broker"), text);
    writePem(bench.file("tls.crt"), bench.file("tls.key"), renewed);
    bench.broker = new FakeBroker(bench.authority, bench.server, port);
    get(provider, REFERENCE);
    assertEquals(RENEWED, bench.broker.callers.get(0));
  }

  @Test
  void aBrokerOfAnotherAuthorityIsNotTrusted() {
    writePem(bench.file("ca.pem"), new TestAuthority("other").certificate);
    String text = failure(bench.provider(), REFERENCE);
    assertTrue(text.contains("SECRETBROKER_NOT_TRUSTED: the certificate of the broker at localhost:"), text);
    assertTrue(text.contains(bench.file("ca.pem").toString()), text);
    assertEquals(0, bench.broker.requests.size());
  }

  @Test
  void theCertificateMustBeForTheNameThatWasAskedFor() {
    Map<String, String> settings = bench.settings();
    settings.put("addresses", "127.0.0.1:" + bench.broker.port());
    String text = failure(bench.provider(settings), REFERENCE);
    assertTrue(text.contains("SECRETBROKER_NOT_TRUSTED"), text);
    settings.put("tls.server.name", "localhost");
    get(bench.provider(settings), REFERENCE);
    settings.put("tls.server.name", "secretbroker.example.org");
    assertTrue(failure(bench.provider(settings), REFERENCE).contains("SECRETBROKER_NOT_TRUSTED"));
  }

  @Test
  void aRefusedCertificateIsNamed() {
    writePem(bench.file("tls.crt"), bench.file("tls.key"), new TestAuthority("other").client(Bench.WORKER));
    String text = failure(bench.provider(), REFERENCE);
    assertTrue(text.contains("CERTIFICATE_REFUSED: the broker at localhost:"), text);
    assertTrue(text.contains(bench.file("tls.crt").toString()), text);
  }

  @Test
  void whatCannotBeUsedIsSaidAtTheStart() throws Exception {
    TestAuthority.Issued good = bench.authority.client(Bench.WORKER);
    TestAuthority.Issued old = bench.authority.client(Bench.WORKER, "EC", 256, Duration.ofMinutes(-1));
    String key = pem("PRIVATE KEY", good.key().getEncoded());
    Map<String, Runnable> faults = new LinkedHashMap<>();
    faults.put("tls.crt does not exist", () -> bench.file("tls.crt").toFile().delete());
    faults.put("tls.crt has no PEM block BEGIN CERTIFICATE", () -> write(bench.file("tls.crt"), key));
    faults.put("tls.crt has a PEM block that is not a certificate", () -> write(bench.file("tls.crt"), pem("CERTIFICATE", new byte[] {1})));
    faults.put("tls.crt does not match its private key", () -> writePem(bench.file("tls.crt"), bench.authority.client("spiffe://x/y").certificate()));
    faults.put("tls.crt has a certificate that is valid only from", () -> writePem(bench.file("tls.crt"), bench.file("tls.key"), old));
    faults.put("tls.key has no PEM block BEGIN PRIVATE KEY", () -> write(bench.file("tls.key"), "canary"));
    faults.put("tls.key has a private key that Java cannot read", () -> write(bench.file("tls.key"), pem("PRIVATE KEY", new byte[] {1})));
    faults.put("tls.key is encrypted", () -> write(bench.file("tls.key"), pem("ENCRYPTED PRIVATE KEY", new byte[] {1})));
    faults.put("ca.pem has no PEM block", () -> write(bench.file("ca.pem"), ""));
    faults.put("ca.pem is larger than 1 MiB", () -> write(bench.file("ca.pem"), "x".repeat((1 << 20) + 1)));
    for (Map.Entry<String, Runnable> fault : faults.entrySet()) {
      writePem(bench.file("ca.pem"), bench.authority.certificate);
      writePem(bench.file("tls.crt"), bench.file("tls.key"), good);
      fault.getValue().run();
      expectRefused(bench.settings(), fault.getKey());
    }
  }

  @Test
  void storesThatCannotBeUsedAreSaidAtTheStart() throws Exception {
    Map<String, String> settings = pkcs12();
    write(bench.file("worker.pw"), "canary");
    expectRefused(settings, "worker.p12 is not a PKCS12 store, or ");
    settings = pkcs12();
    settings.put("tls.truststore.file", bench.file("worker.p12").toString());
    settings.put("tls.truststore.password.file", bench.file("worker.pw").toString());
    expectRefused(settings, "worker.p12 has no trusted certificates");
    settings = pkcs12();
    settings.put("tls.keystore.file", bench.file("trust.p12").toString());
    settings.put("tls.keystore.password.file", bench.file("trust.pw").toString());
    expectRefused(settings, "trust.p12 has 0 private keys");
    settings = pkcs12();
    Files.delete(bench.file("trust.pw"));
    expectRefused(settings, "trust.pw does not exist");
  }

  private static void expectRefused(Map<String, String> settings, String want) {
    String text = assertThrows(ConfigException.class, () -> new SecretBrokerConfigProvider().configure(settings)).getMessage();
    assertTrue(text.contains(want), want + " is not in: " + text);
    assertFalse(text.contains("canary"), text);
  }
}
