#pragma once
// What Open MPI keeps for a pointer into a file that ranks share, which is not used here.

#include <string>

namespace idistill::comm {

/// Before MPI_Init. On one node Open MPI would guard that pointer by a semaphore named after the file without its
/// folder, which it takes while it opens the file: when a rank is killed just then, whoever opens a file of that name
/// on the node waits for ever, and other users cannot open it in any case. Its pointer files do neither. What the user
/// set counts.
void prefer_pointer_files();

/// By the rank that is 0 among those that opened the file at `path`, when all of them have: its pointer file,
/// FILE-NUMBER-PROCESS.lock, is open then and needs no name, which a job that is killed would leave behind. Errors do
/// no harm and are not reported.
void remove_pointer_file(const std::string& path);

}  // namespace idistill::comm
