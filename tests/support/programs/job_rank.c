/* One rank of a job for the tests: what it does after MPI_Init is said by its first argument.
 *
 *   hello          print rank and size, and a token passed round all ranks; exit 0
 *   exit N         finalize, and exit with N on each rank
 *   leave N R      rank R exits with N without MPI_Finalize, the others wait in a barrier
 *   crash R        rank R writes to address 0, the others wait
 *   abort N R      rank R calls MPI_Abort(N), the others wait
 *   early N R      rank R exits with N before MPI_Init, the others go on into it
 *   hang           wait for a message that nobody sends
 *   where          print the working directory and the variable JOB_TEST
 */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int number(int argc, char **argv, int at) { return at < argc ? atoi(argv[at]) : 0; }

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "hello";
    const char *announced = getenv("PMI_RANK");
    if (announced == NULL)
        announced = getenv("PMIX_RANK");
    if (!strcmp(what, "early") && announced && atoi(announced) == number(argc, argv, 3)) {
        fprintf(stderr, "leaving early\n");
        return number(argc, argv, 2);
    }
    MPI_Init(&argc, &argv);
    int rank, size, token = 0, status = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (!strcmp(what, "hello")) {
        MPI_Allreduce(&rank, &token, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        printf("rank %d of %d, sum %d\n", rank, size, token);
        fprintf(stderr, "note from %d\n", rank);
    } else if (!strcmp(what, "where")) {
        char folder[4096];
        const char *value = getenv("JOB_TEST");
        printf("%s %s\n", getcwd(folder, sizeof folder), value ? value : "-");
    } else if (!strcmp(what, "exit")) {
        status = number(argc, argv, 2);
    } else if (!strcmp(what, "leave") && rank == number(argc, argv, 3)) {
        fprintf(stderr, "leaving %d\n", rank);
        fflush(stderr);
        _exit(number(argc, argv, 2));
    } else if (!strcmp(what, "crash") && rank == number(argc, argv, 2)) {
        fprintf(stderr, "crashing %d\n", rank);
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    } else if (!strcmp(what, "abort") && rank == number(argc, argv, 3)) {
        MPI_Abort(MPI_COMM_WORLD, number(argc, argv, 2));
    } else if (!strcmp(what, "hang")) {
        MPI_Recv(&token, 1, MPI_INT, MPI_ANY_SOURCE, 7, MPI_COMM_SELF, MPI_STATUS_IGNORE);
    } else {
        MPI_Barrier(MPI_COMM_WORLD);
    }
    MPI_Finalize();
    return status;
}
