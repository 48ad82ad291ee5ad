/* Fetch.java: Java's HttpClient, for test_interop.py.
 *
 * SPDX-License-Identifier: MIT
 *
 * java Fetch.java URL CA-FILE BODY ANSWER: posts the file BODY to URL/up; then, with a second client
 * that shares the first one's sessions, writes what URL/big says to the file ANSWER.
 */
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Fetch {
	static HttpClient client(SSLContext context) {
		return HttpClient.newBuilder().sslContext(context).build(); // offers h2 and http/1.1
	}

	public static void main(String[] args) throws Exception {
		KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
		store.load(null, null);
		try (FileInputStream in = new FileInputStream(args[1])) {
			store.setCertificateEntry("ca",
					CertificateFactory.getInstance("X.509").generateCertificate(in));
		}
		TrustManagerFactory trust =
				TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		trust.init(store);
		SSLContext context = SSLContext.getInstance("TLS");
		context.init(null, trust.getTrustManagers(), null);
		HttpResponse<String> up = client(context).send(
				HttpRequest.newBuilder(URI.create(args[0] + "/up"))
						.POST(HttpRequest.BodyPublishers.ofFile(Path.of(args[2]))).build(),
				HttpResponse.BodyHandlers.ofString());
		HttpResponse<Path> big = client(context).send(
				HttpRequest.newBuilder(URI.create(args[0] + "/big")).build(),
				HttpResponse.BodyHandlers.ofFile(Path.of(args[3])));
		System.out.println(up.statusCode() + " " + big.statusCode() + " " + big.version());
		System.exit(0);
	}
}
