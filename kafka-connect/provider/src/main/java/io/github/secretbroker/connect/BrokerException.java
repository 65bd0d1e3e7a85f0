package io.github.secretbroker.connect;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RequestInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.lite.ProtoLiteUtils;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLHandshakeException;

/**
 * Reports why references could not be resolved: one {@link Fault} for each failed reference, or one
 * for the whole call. It contains no value of a secret.
 */
final class BrokerException extends Exception {
  private static final long serialVersionUID = 1L;

  /** No broker answered. */
  static final String UNREACHABLE = "SECRETBROKER_UNREACHABLE";
  /** This worker does not trust the broker's certificate. */
  static final String NOT_TRUSTED = "SECRETBROKER_NOT_TRUSTED";
  /** The broker does not accept this worker's certificate. */
  static final String CERTIFICATE_REFUSED = "CERTIFICATE_REFUSED";
  /** The broker returned a result that connectors must not use, such as an empty value. */
  static final String UNUSABLE_VALUE = "UNUSABLE_VALUE";

  private static final Metadata.Key<com.google.rpc.Status> DETAILS =
      Metadata.Key.of(
          "grpc-status-details-bin", ProtoLiteUtils.metadataMarshaller(com.google.rpc.Status.getDefaultInstance()));
  private static final Pattern CONFIG = Pattern.compile("configs\\[\"k(\\d{1,5})\"]");

  /**
   * One error.
   *
   * @param index the index of the reference, -1 for the whole call
   * @param reason a machine-readable reason of docs/errors.md or of this class
   * @param retryAfterMs the minimum wait before a retry, -1 if a retry does not help
   */
  record Fault(int index, String reason, String message, long retryAfterMs) {}

  private final transient List<Fault> faults;
  private final String requestId;

  BrokerException(List<Fault> faults, String requestId) {
    super(faults.get(0).reason(), null, false, false);
    this.faults = List.copyOf(faults);
    this.requestId = requestId;
  }

  List<Fault> faults() {
    return faults;
  }

  String requestId() {
    return requestId;
  }

  /** Returns the exception of a call during which the provider was closed. */
  static BrokerException closed() {
    return single(UNREACHABLE, "the provider was closed during the call", -1);
  }

  /** Reports whether no broker could be reached. */
  boolean unreachable() {
    return faults.get(0).reason().equals(UNREACHABLE);
  }

  /** Reports whether the error is a broker's answer. */
  boolean fromBroker() {
    return !requestId.isEmpty();
  }

  /** Returns the minimum wait before a retry, or -1 if a person has to fix something first. */
  long retryAfterMs() {
    long longest = 0;
    for (Fault f : faults) {
      if (f.retryAfterMs() < 0) {
        return -1;
      }
      longest = Math.max(longest, f.retryAfterMs());
    }
    return longest;
  }

  /** Converts an error of the gRPC library or the broker, for the operator of the connector. */
  static BrokerException of(StatusRuntimeException e, String brokers, String tls) {
    com.google.rpc.Status status = e.getTrailers() == null ? null : e.getTrailers().get(DETAILS);
    if (status != null) {
      BrokerException told = told(status);
      if (told != null) {
        return told;
      }
    }
    Status.Code code = e.getStatus().getCode();
    String description = e.getStatus().getDescription();
    return switch (code) {
      case UNAVAILABLE -> new BrokerException(List.of(connection(e, brokers, tls)), "");
      case DEADLINE_EXCEEDED -> single(UNREACHABLE, "no answer in time from the broker at " + brokers
          + "; check that it runs and that this worker can reach it", 0);
      case CANCELLED -> single(UNREACHABLE, "the worker stopped waiting for the broker at " + brokers, -1);
      case UNIMPLEMENTED -> single(UNREACHABLE, "the server at " + brokers + " is not a secretbroker", -1);
      case RESOURCE_EXHAUSTED -> single("OVERLOADED", "the message is too large, or a proxy refused the call: " + description, 0);
      default -> single(code.name(), String.valueOf(description), -1);
    };
  }

  private static BrokerException single(String reason, String message, long retryAfterMs) {
    return new BrokerException(List.of(new Fault(-1, reason, message, retryAfterMs)), "");
  }

  /** Parses the broker's own error (docs/errors.md). Returns null if status is not one. */
  private static BrokerException told(com.google.rpc.Status status) {
    String reason = "";
    String requestId = "";
    long retryAfterMs = -1;
    List<Fault> faults = new ArrayList<>();
    try {
      for (Any detail : status.getDetailsList()) {
        ByteString value = detail.getValue();
        switch (detail.getTypeUrl().substring(detail.getTypeUrl().lastIndexOf('.') + 1)) {
          case "ErrorInfo" -> {
            ErrorInfo info = ErrorInfo.parseFrom(value);
            reason = info.getDomain().equals("secretbroker") ? info.getReason() : "";
          }
          case "RequestInfo" -> requestId = RequestInfo.parseFrom(value).getRequestId();
          case "RetryInfo" -> retryAfterMs = millis(RetryInfo.parseFrom(value).getRetryDelay());
          case "BadRequest" -> {
            for (BadRequest.FieldViolation v : BadRequest.parseFrom(value).getFieldViolationsList()) {
              faults.add(violation(v));
            }
          }
          default -> { }
        }
      }
    } catch (InvalidProtocolBufferException e) {
      return null;
    }
    if (reason.isEmpty()) {
      return null;
    }
    if (faults.isEmpty()) {
      faults.add(new Fault(-1, reason, status.getMessage(), retryAfterMs));
    }
    return new BrokerException(faults, requestId);
  }

  private static Fault violation(BadRequest.FieldViolation v) {
    Matcher m = CONFIG.matcher(v.getField());
    int index = m.matches() ? Integer.parseInt(m.group(1)) : -1;
    return new Fault(index, v.getReason(), v.getDescription(), -1);
  }

  /** Converts a duration to milliseconds, limited to the range from zero to one hour. */
  static long millis(Duration d) {
    long seconds = Math.max(0, Math.min(d.getSeconds(), 3600));
    return seconds * 1000 + Math.max(0, d.getNanos()) / 1_000_000;
  }

  private static Fault connection(StatusRuntimeException e, String brokers, String tls) {
    for (Throwable t = e.getStatus().getCause(); t != null; t = t.getCause()) {
      String text = String.valueOf(t.getMessage());
      if (t instanceof SSLException && text.contains("Received fatal alert")) {
        return new Fault(-1, CERTIFICATE_REFUSED, "the broker at " + brokers
            + " refused this worker's certificate (" + text + "; " + tls + ")", -1);
      }
      if (t instanceof SSLHandshakeException) {
        return new Fault(-1, NOT_TRUSTED, "the certificate of the broker at " + brokers
            + " is not trusted: " + text + " (" + tls + ")", -1);
      }
    }
    Throwable cause = e.getStatus().getCause();
    while (cause != null && cause.getCause() != null) {
      cause = cause.getCause();
    }
    String why = cause == null ? e.getStatus().getDescription() : cause.getMessage();
    return new Fault(-1, UNREACHABLE, "cannot reach the broker at " + brokers + ": " + why
        + "; check that it runs and that this worker can reach it", 0);
  }

  /** Returns the first error without the reference, for the log. */
  String describeFirst() {
    return faults.get(0).reason() + ": " + faults.get(0).message();
  }

  /** Returns all errors as one text, for the exception that Connect shows in a connector's trace. */
  String describe(String integration, List<String> references) {
    StringBuilder text = new StringBuilder("secretbroker: ");
    boolean whole = faults.get(0).index() < 0;
    if (whole) {
      text.append("the secrets of integration ").append(integration).append(" could not be resolved");
    } else {
      text.append(faults.size()).append(" of ").append(references.size())
          .append(references.size() == 1 ? " reference" : " references")
          .append(" through integration ").append(integration).append(" cannot be resolved");
    }
    if (!requestId.isEmpty()) {
      text.append(" (request ").append(requestId).append(')');
    }
    for (Fault f : faults) {
      text.append(faults.size() > 1 ? "\n  " : ": ").append(f.reason());
      if (f.index() >= 0 && f.index() < references.size()) {
        text.append(" for ").append(shown(references.get(f.index()), f.reason()));
      }
      text.append(": ").append(f.message());
    }
    return text.toString();
  }

  private static final Pattern STORE = Pattern.compile("https://[A-Za-z0-9.-]{1,253}(:\\d{1,5})?");

  /**
   * Returns the form of a reference that an error may show. An invalid reference may be a pasted
   * password and is not quoted, except for a store at its beginning, which helps to find it.
   */
  private static String shown(String reference, String reason) {
    if (!reason.equals("INVALID_REFERENCE") && !reason.equals("INVALID_REQUEST") && reference.contains("::")) {
      return reference;
    }
    int end = reference.indexOf("::");
    if (end > 0 && STORE.matcher(reference.substring(0, end)).matches()) {
      return reference.substring(0, end) + "::...";
    }
    return "a reference that is not shown because it may be a value";
  }
}
