#pragma once
// What Open MPI keeps for a pointer into a file that ranks share, which is not used here.

#include <string>

namespace idistill::comm {

/// Before MPI_Init. On one node Open MPI would guard that pointer by a semaphore named after the file without its
/// folder, which it takes while it opens the file: when a rank is killed just then, whoever opens a file of that name
/// on the node waits for ever, and other users cannot open it in any case. Its pointer files do neither. What the user
/// set counts.
void prefer_pointer_files();

/// Removes the pointer files of the file at `path`, FILE-NUMBER-PROCESS.lock. By one rank: when all have opened the
/// file and need no name for it any longer, and before, for what a job left that was killed between. Only where no
/// other job has the file (work::RunLock). Errors do no harm and are not reported.
void remove_pointer_files(const std::string& path);

}  // namespace idistill::comm
