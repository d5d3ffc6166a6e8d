/* A program for images without any other file: it runs the verbs of its command line, one by one.
 *
 * Each verb prints one line: what it found, or the error.  Without a verb it prints its identity.
 * The environment is printed without what each engine has of its own.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void say(const char *verb, const char *object, int result)
{
	printf("%s %s: %s\n", verb, object, result < 0 ? strerror(errno) : "done");
}

static void identity(void)
{
	gid_t groups[64];
	int count = getgroups(64, groups);

	printf("uid %d gid %d groups", (int)geteuid(), (int)getegid());
	for (int i = 0; i < count; i++)
		if (groups[i] != getegid()) /* whether that is among them, engines decide */
			printf(" %d", (int)groups[i]);
	printf("\n");
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void print_sorted(char **words, size_t count, const char *before)
{
	qsort(words, count, sizeof *words, by_text);
	printf("%s", before);
	for (size_t i = 0; i < count; i++)
		printf(" %s", words[i]);
	printf("\n");
}

static void list(const char *path)
{
	char *names[1024];
	size_t count = 0;
	DIR *directory = opendir(path);

	if (!directory) {
		say("list", path, -1);
		return;
	}
	for (struct dirent *entry; count < 1024 && (entry = readdir(directory));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			names[count++] = strdup(entry->d_name);
	closedir(directory);
	print_sorted(names, count, path);
}

static void environment(void)
{
	char *pairs[1024];
	size_t count = 0;

	for (char **pair = environ; count < 1024 && *pair; pair++)
		if (strncmp(*pair, "container=", 10) != 0 && strncmp(*pair, "HOSTNAME=", 9) != 0)
			pairs[count++] = *pair;
	print_sorted(pairs, count, "env");
}

static void show(const char *path)
{
	struct stat info;

	if (lstat(path, &info) < 0) {
		say("stat", path, -1);
		return;
	}
	printf("%s mode %o owner %d:%d", path, (unsigned)info.st_mode, (int)info.st_uid,
	       (int)info.st_gid);
	if (!S_ISDIR(info.st_mode)) /* of directories, file systems count what they like */
		printf(" links %d", (int)info.st_nlink);
	printf("\n");
}

static void copy_out(const char *path)
{
	char data[4096];
	ssize_t size;
	int fd = open(path, O_RDONLY);

	if (fd < 0) {
		say("read", path, -1);
		return;
	}
	fflush(stdout);
	while ((size = read(fd, data, sizeof data)) > 0)
		if (write(1, data, (size_t)size) != size)
			_exit(99);
	if (size < 0)
		say("read", path, -1);
	close(fd);
}

static void append(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
	ssize_t size = fd < 0 ? -1 : write(fd, text, strlen(text));

	say("write", path, size < 0 ? -1 : 0);
	if (fd >= 0)
		close(fd);
}

static void capabilities(void)
{
	char line[256];
	FILE *status = fopen("/proc/self/status", "r");

	while (status && fgets(line, sizeof line, status))
		if (strncmp(line, "Cap", 3) == 0 || strncmp(line, "NoNewPrivs", 10) == 0 ||
		    strncmp(line, "Seccomp:", 8) == 0)
			printf("%s", line);
	if (status)
		fclose(status);
}

/* An orphan of a child: whose child is it then, and does anybody reap it? */
static void orphan(void)
{
	int pipes[2];
	char parent[32] = "";

	if (pipe(pipes) < 0)
		return;
	fflush(stdout);
	if (fork() == 0) {
		pid_t middle = getpid();

		if (fork() == 0) {
			while (getppid() == middle)
				usleep(1000);
			dprintf(pipes[1], "%d", (int)getppid());
			_exit(0);
		}
		_exit(0);
	}
	wait(NULL);
	if (read(pipes[0], parent, sizeof parent - 1) > 0)
		printf("an orphan's parent is %s\n", parent);
}

/* Print each of some signals that arrives; end by SIGINT with status 9. */
static void serve(void)
{
	sigset_t wanted;
	int number;

	sigemptyset(&wanted);
	for (const int *one = (int[]){SIGUSR1, SIGUSR2, SIGTERM, SIGHUP, SIGINT, 0}; *one; one++)
		sigaddset(&wanted, *one);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	printf("up\n");
	fflush(stdout);
	while (sigwait(&wanted, &number) == 0) {
		printf("got %s\n", strsignal(number));
		fflush(stdout);
		if (number == SIGINT)
			_exit(9);
	}
}

static int without_object(const char *verb)
{
	char here[4096];

	if (strcmp(verb, "id") == 0)
		identity();
	else if (strcmp(verb, "env") == 0)
		environment();
	else if (strcmp(verb, "caps") == 0)
		capabilities();
	else if (strcmp(verb, "cwd") == 0)
		printf("cwd %s\n", getcwd(here, sizeof here) ? here : strerror(errno));
	else if (strcmp(verb, "pid") == 0)
		printf("pid %d\n", (int)getpid());
	else if (strcmp(verb, "tty") == 0)
		printf("terminals %d %d %d\n", isatty(0), isatty(1), isatty(2));
	else if (strcmp(verb, "orphan") == 0)
		orphan();
	else if (strcmp(verb, "serve") == 0)
		serve();
	else
		return 0;
	return 1;
}

static int with_object(const char *verb, const char *object)
{
	if (strcmp(verb, "list") == 0)
		list(object);
	else if (strcmp(verb, "stat") == 0)
		show(object);
	else if (strcmp(verb, "read") == 0)
		copy_out(object);
	else if (strcmp(verb, "mkdir") == 0)
		say(verb, object, mkdir(object, 0755));
	else if (strcmp(verb, "rmdir") == 0)
		say(verb, object, rmdir(object));
	else if (strcmp(verb, "unlink") == 0)
		say(verb, object, unlink(object));
	else if (strcmp(verb, "errors") == 0)
		fprintf(stderr, "%s\n", object);
	else if (strcmp(verb, "exit") == 0)
		exit(atoi(object));
	else if (strcmp(verb, "kill") == 0) {
		fflush(stdout);
		signal(atoi(object), SIG_DFL);
		kill(getpid(), atoi(object));
	} else
		return 0;
	return 1;
}

static int with_two(const char *verb, const char *object, const char *other)
{
	if (strcmp(verb, "write") == 0)
		append(object, other);
	else if (strcmp(verb, "rename") == 0)
		say(verb, object, rename(object, other));
	else if (strcmp(verb, "link") == 0)
		say(verb, object, link(object, other));
	else if (strcmp(verb, "symlink") == 0)
		say(verb, other, symlink(object, other));
	else if (strcmp(verb, "chmod") == 0)
		say(verb, object, chmod(object, (mode_t)strtol(other, NULL, 8)));
	else if (strcmp(verb, "chown") == 0)
		say(verb, object, lchown(object, (uid_t)atoi(other), (gid_t)atoi(other)));
	else
		return 0;
	return 1;
}

int main(int count, char **words)
{
	int at = 1;

	if (count == 1)
		identity();
	while (at < count) {
		int left = count - at - 1;

		if (without_object(words[at]))
			at += 1;
		else if (left > 0 && with_object(words[at], words[at + 1]))
			at += 2;
		else if (left > 1 && with_two(words[at], words[at + 1], words[at + 2]))
			at += 3;
		else {
			printf("arguments");
			for (; at < count; at++)
				printf(" [%s]", words[at]);
			printf("\n");
		}
		fflush(stdout);
	}
	return 0;
}
