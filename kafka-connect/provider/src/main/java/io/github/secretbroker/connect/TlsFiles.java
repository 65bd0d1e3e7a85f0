package io.github.secretbroker.connect;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.Key;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;

/**
 * The files for mutual TLS. The worker's identity and the trusted authorities can each be PEM or
 * PKCS12. Files that are not used are null.
 */
record TlsFiles(
    Path ca,
    Path truststore,
    Path truststorePassword,
    Path cert,
    Path key,
    Path keystore,
    Path keystorePassword) {

  /** Far more than any certificate with its chain needs. */
  private static final int MAX_BYTES = 1 << 20;

  /** The parsed content of the files. */
  record Material(PrivateKey key, List<X509Certificate> chain, List<X509Certificate> roots) {
    @Override
    public String toString() {
      return "Material[" + chain.get(0).getSubjectX500Principal() + "]";
    }
  }

  /** A file cannot be used. The message names it, the cause and the remedy, and quotes no content. */
  static final class UnusableException extends Exception {
    private static final long serialVersionUID = 1L;

    UnusableException(Path file, String why) {
      super(file + " " + why);
    }
  }

  /** Returns the file with this worker's certificate. */
  Path identity() {
    return cert != null ? cert : keystore;
  }

  /** Returns the file with the trusted authorities. */
  Path trust() {
    return ca != null ? ca : truststore;
  }

  /** Returns a hash of the contents of all files. */
  String fingerprint() throws UnusableException {
    try {
      MessageDigest digest = MessageDigest.getInstance("SHA-256");
      for (Path file : used()) {
        byte[] content = read(file);
        digest.update(ByteBuffer.allocate(4).putInt(content.length).array());
        digest.update(content);
        Arrays.fill(content, (byte) 0);
      }
      return HexFormat.of().formatHex(digest.digest());
    } catch (GeneralSecurityException e) {
      throw new IllegalStateException(e); // impossible: every Java implementation has SHA-256
    }
  }

  /** Reads and checks all files. */
  Material load() throws UnusableException {
    List<X509Certificate> roots = ca != null ? Pem.certificates(ca, read(ca)) : trusted();
    Material material = cert != null ? fromPem(roots) : fromKeystore(roots);
    checkValid(identity(), material.chain().get(0));
    checkPair(material);
    return material;
  }

  private Stream<Path> all() {
    return Stream.of(ca, truststore, truststorePassword, cert, key, keystore, keystorePassword);
  }

  private List<Path> used() {
    return all().filter(f -> f != null).toList();
  }

  private Material fromPem(List<X509Certificate> roots) throws UnusableException {
    byte[] content = read(key);
    try {
      return new Material(Pem.privateKey(key, content), Pem.certificates(cert, read(cert)), roots);
    } finally {
      Arrays.fill(content, (byte) 0);
    }
  }

  private Material fromKeystore(List<X509Certificate> roots) throws UnusableException {
    char[] password = password(keystorePassword);
    try {
      KeyStore store = open(keystore, keystorePassword, password);
      List<String> keys = new ArrayList<>();
      for (String alias : Collections.list(store.aliases())) {
        if (store.isKeyEntry(alias)) {
          keys.add(alias);
        }
      }
      if (keys.size() != 1) {
        throw new UnusableException(keystore, "has " + keys.size() + " private keys; it must have one");
      }
      Key found = store.getKey(keys.get(0), password);
      List<X509Certificate> chain = new ArrayList<>();
      for (Certificate c : store.getCertificateChain(keys.get(0))) {
        chain.add((X509Certificate) c);
      }
      return new Material((PrivateKey) found, List.copyOf(chain), roots);
    } catch (GeneralSecurityException | ClassCastException | NullPointerException e) {
      throw new UnusableException(keystore, "contains no readable private key with a certificate");
    } finally {
      Arrays.fill(password, '\0');
    }
  }

  private List<X509Certificate> trusted() throws UnusableException {
    char[] password = password(truststorePassword);
    try {
      KeyStore store = open(truststore, truststorePassword, password);
      List<X509Certificate> roots = new ArrayList<>();
      for (String alias : Collections.list(store.aliases())) {
        // Java ignores certificates that other tools, such as openssl, have added, unless
        // they are marked as trusted.
        if (store.isCertificateEntry(alias) && store.getCertificate(alias) instanceof X509Certificate c) {
          roots.add(c);
        }
      }
      if (roots.isEmpty()) {
        throw new UnusableException(
            truststore, "has no trusted certificates; import them with keytool -importcert, or set " + Settings.CA_FILE);
      }
      return List.copyOf(roots);
    } catch (GeneralSecurityException e) {
      throw new UnusableException(truststore, "cannot be read as a PKCS12 store");
    } finally {
      Arrays.fill(password, '\0');
    }
  }

  private static KeyStore open(Path file, Path passwordFile, char[] password) throws UnusableException {
    try {
      KeyStore store = KeyStore.getInstance("PKCS12");
      store.load(new ByteArrayInputStream(read(file)), password);
      return store;
    } catch (IOException | GeneralSecurityException e) {
      throw new UnusableException(file, "is not a PKCS12 store, or " + passwordFile + " does not contain its password");
    }
  }

  private static char[] password(Path file) throws UnusableException {
    byte[] content = read(file);
    CharBuffer text = StandardCharsets.UTF_8.decode(ByteBuffer.wrap(content));
    Arrays.fill(content, (byte) 0);
    int end = text.length(); // one line break at the end is not part of the password
    if (end > 0 && text.charAt(end - 1) == '\n') {
      end--;
    }
    if (end > 0 && text.charAt(end - 1) == '\r') {
      end--;
    }
    char[] password = new char[end];
    text.get(password);
    Arrays.fill(text.array(), '\0');
    return password;
  }

  private static byte[] read(Path file) throws UnusableException {
    try {
      if (Files.size(file) > MAX_BYTES) {
        throw new UnusableException(file, "is larger than 1 MiB");
      }
      return Files.readAllBytes(file);
    } catch (NoSuchFileException e) {
      throw new UnusableException(file, "does not exist");
    } catch (IOException | SecurityException e) {
      throw new UnusableException(file, "cannot be read by the worker's user: " + e.getClass().getSimpleName());
    }
  }

  private static void checkValid(Path file, X509Certificate leaf) throws UnusableException {
    try {
      leaf.checkValidity();
    } catch (GeneralSecurityException e) {
      throw new UnusableException(
          file,
          "has a certificate that is valid only from "
              + leaf.getNotBefore().toInstant() + " to " + leaf.getNotAfter().toInstant()
              + "; renew it, or correct the clock");
    }
  }

  /** Checks that the key belongs to the certificate, by signing and verifying. */
  private void checkPair(Material material) throws UnusableException {
    String type = material.key().getAlgorithm();
    String algorithm =
        switch (type) {
          case "RSA", "RSASSA-PSS" -> "SHA256withRSA";
          case "EC" -> "SHA256withECDSA";
          default -> type; // Ed25519, Ed448: key and signature have the same name
        };
    boolean matches;
    try {
      byte[] probe = {1, 2, 3};
      Signature signature = Signature.getInstance(algorithm);
      signature.initSign(material.key());
      signature.update(probe);
      byte[] signed = signature.sign();
      signature.initVerify(material.chain().get(0).getPublicKey());
      signature.update(probe);
      matches = signature.verify(signed);
    } catch (GeneralSecurityException e) {
      matches = false;
    }
    if (!matches) {
      throw new UnusableException(identity(), "does not match its private key");
    }
  }
}
