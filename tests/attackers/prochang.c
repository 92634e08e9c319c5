#include "hangfs.h"
// usage: prochang FILE N : N processes open FILE again and again, while the inode lock of each one's /proc/PID is held (as by
// dirlock) and waited for by a writer, so that whoever looks up a name there sleeps
static int dfd[64]; static char*page;
static void*gd(void*i){long n=(long)i;syscall(SYS_getdents64,dfd[n],page+n*8192,4096);return 0;}
int main(int c,char**v){char d[]="/tmp/hangXXXXXX";if(!mkdtemp(d)){perror("mkdtemp");return 1;}
 int n=atoi(v[2]);if(n<1||n>64)return 1;int go[2];if(pipe(go)){perror("pipe");return 1;}
 pid_t asks[64];
 for(int i=0;i<n;i++)if(!(asks[i]=fork())){char b;close(go[1]);if(read(go[0],&b,1)<0)_exit(1);for(;;){int f=open(v[1],O_RDONLY);if(f>=0)close(f);usleep(1000);}}
 for(int i=0;i<n;i++){char p[64];sprintf(p,"/proc/%d",asks[i]);dfd[i]=open(p,O_RDONLY|O_DIRECTORY);if(dfd[i]<0){perror(p);return 1;}}
 hf_start(d);char p[64];sprintf(p,"%s/f",d);int f=open(p,O_RDWR);if(f<0){perror("open f");return 1;}
 page=mmap(0,1<<20,PROT_READ|PROT_WRITE,MAP_PRIVATE,f,0);if(page==MAP_FAILED){perror("mmap");return 1;}
 hf_hang_read=1;for(long i=0;i<n;i++){pthread_t t;pthread_create(&t,0,gd,(void*)i);}
 sleep(1);
 for(int i=0;i<n;i++)if(!fork()){char q[64];sprintf(q,"/proc/%d/nosuchname",asks[i]);open(q,O_CREAT|O_WRONLY,0600);_exit(0);}
 sleep(1);close(go[1]);
 fprintf(stderr,"[prochang] %d reads pending, %d processes ask\n",hf_reads,n);
 for(;;)pause();}
