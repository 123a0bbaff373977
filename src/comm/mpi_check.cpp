#include "mpi_check.hpp"

#include <array>
#include <exception>
#include <iterator>
#include <string>

#include "idistill/base/error.hpp"

namespace idistill::comm {

void check(const char* call, int code) {
    if (code == MPI_SUCCESS) return;
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
    throw Error(
        ExitCode::internal_error,
        {call, "", "",
         "MPI error " + std::to_string(code) + " (" + std::string(text.data(), static_cast<std::size_t>(length)) + ")",
         "Look for what the MPI library printed above; the same command continues the run"});
}

bool mpi_is_up() noexcept {
    int up = 0;
    int down = 0;
    return MPI_Initialized(&up) == MPI_SUCCESS && up != 0 && MPI_Finalized(&down) == MPI_SUCCESS && down == 0;
}

MPI_Datatype mpi_type(ElementType type) {
    const MPI_Datatype types[] = {MPI_UINT8_T,  MPI_INT32_T, MPI_INT64_T, MPI_UINT32_T,
                                  MPI_UINT64_T, MPI_FLOAT,   MPI_DOUBLE};  // in the order of ElementType
    static_assert(std::size(types) == static_cast<std::size_t>(ElementType::end));
    return types[static_cast<std::size_t>(type)];
}

MPI_Op mpi_operation(Reduction reduction) {
    return reduction == Reduction::sum ? MPI_SUM : reduction == Reduction::max ? MPI_MAX : MPI_MIN;
}

OwnedComm::OwnedComm(MPI_Comm comm) : comm_(comm), exceptions_(std::uncaught_exceptions()) {
    check("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
}

OwnedComm::~OwnedComm() {
    if (std::uncaught_exceptions() == exceptions_ && mpi_is_up()) MPI_Comm_free(&comm_);
}

}  // namespace idistill::comm
