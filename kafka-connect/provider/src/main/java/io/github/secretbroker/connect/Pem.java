package io.github.secretbroker.connect;

import io.github.secretbroker.connect.TlsFiles.UnusableException;
import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Parses PEM files (RFC 7468). Errors never quote the content of a file. */
final class Pem {
  private static final Pattern BLOCK =
      Pattern.compile("-----BEGIN ([A-Z0-9 ]+)-----\\s*([A-Za-z0-9+/=\\s]*?)-----END \\1-----");

  /** Group 2 matches the header of a key in a traditional format that is encrypted (RFC 1421). */
  private static final Pattern BEGIN_KEY =
      Pattern.compile("-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----\\s*(Proc-Type: 4,ENCRYPTED)?");

  private Pem() {}

  /** Returns all certificates of a file, at least one, in their order in the file. */
  static List<X509Certificate> certificates(Path file, byte[] content) throws UnusableException {
    List<X509Certificate> found = new ArrayList<>();
    try {
      CertificateFactory factory = CertificateFactory.getInstance("X.509");
      Matcher block = BLOCK.matcher(text(content));
      while (block.find()) {
        if (block.group(1).equals("CERTIFICATE")) {
          byte[] der = Base64.getMimeDecoder().decode(block.group(2));
          found.add((X509Certificate) factory.generateCertificate(new ByteArrayInputStream(der)));
        }
      }
    } catch (GeneralSecurityException | IllegalArgumentException e) {
      throw new UnusableException(file, "has a PEM block that is not a certificate");
    }
    if (found.isEmpty()) {
      throw new UnusableException(file, "has no PEM block BEGIN CERTIFICATE");
    }
    return List.copyOf(found);
  }

  /**
   * Returns the private key of a file: unencrypted PKCS #8, PKCS #1 (BEGIN RSA PRIVATE KEY) or SEC 1
   * (BEGIN EC PRIVATE KEY). The caller owns content; all copies of it are overwritten.
   */
  static PrivateKey privateKey(Path file, byte[] content) throws UnusableException {
    Matcher begin = BEGIN_KEY.matcher(new Latin1(content));
    if (!begin.find()) {
      throw new UnusableException(file, "has no PEM block BEGIN PRIVATE KEY");
    }
    String kind = begin.group(1);
    if (kind.equals("ENCRYPTED PRIVATE KEY") || begin.group(2) != null) {
      throw new UnusableException(
          file, "is encrypted; use an unencrypted key, or a PKCS12 store in " + Settings.KEYSTORE_FILE);
    }
    Matcher end = Pattern.compile("-----END " + kind + "-----").matcher(new Latin1(content));
    if (!end.find(begin.end())) {
      throw new UnusableException(file, "has a PEM block BEGIN " + kind + " without its end");
    }
    byte[] base64 = Arrays.copyOfRange(content, begin.end(), end.start());
    byte[] der = {};
    try {
      der = Base64.getMimeDecoder().decode(base64);
      return privateKey(file, kind, der);
    } catch (IllegalArgumentException e) {
      throw new UnusableException(file, "has a PEM block BEGIN " + kind + " that is not base64");
    } finally {
      Arrays.fill(base64, (byte) 0);
      Arrays.fill(der, (byte) 0);
    }
  }

  private static PrivateKey privateKey(Path file, String kind, byte[] der) throws UnusableException {
    byte[] pkcs8 =
        switch (kind) {
          case "PRIVATE KEY" -> der.clone();
          case "RSA PRIVATE KEY" -> Pkcs8.fromPkcs1(der);
          case "EC PRIVATE KEY" -> Pkcs8.fromSec1(der);
          default -> throw new UnusableException(
              file, "has a key in the format " + kind + "; convert it with openssl pkcs8 -topk8 -nocrypt");
        };
    if (pkcs8 == null) {
      throw new UnusableException(
          file, "has a key without its curve; convert it with openssl pkcs8 -topk8 -nocrypt, or create another one");
    }
    try {
      PKCS8EncodedKeySpec spec = new PKCS8EncodedKeySpec(pkcs8);
      for (String algorithm : List.of("EC", "RSA", "Ed25519", "Ed448", "RSASSA-PSS")) {
        try {
          return KeyFactory.getInstance(algorithm).generatePrivate(spec);
        } catch (GeneralSecurityException e) {
          // the key is of another algorithm
        }
      }
      throw new UnusableException(file, "has a private key that Java cannot read");
    } finally {
      Arrays.fill(pkcs8, (byte) 0);
    }
  }

  private static String text(byte[] content) {
    return new String(content, StandardCharsets.ISO_8859_1);
  }

  /** Bytes as characters, without a copy, which could not be overwritten. */
  private record Latin1(byte[] bytes, int start, int end) implements CharSequence {
    Latin1(byte[] bytes) {
      this(bytes, 0, bytes.length);
    }

    @Override
    public int length() {
      return end - start;
    }

    @Override
    public char charAt(int index) {
      return (char) (bytes[start + index] & 0xff);
    }

    @Override
    public CharSequence subSequence(int from, int to) {
      return new Latin1(bytes, start + from, start + to);
    }

    @Override
    public String toString() {
      return new String(bytes, start, end - start, StandardCharsets.ISO_8859_1);
    }
  }
}
