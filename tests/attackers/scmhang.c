#include "hangfs.h"
// usage: scmhang SOCKET N : N connections, each with one message that carries a descriptor of a FUSE file of ours
int main(int c,char**v){int n=atoi(v[2]);char d[]="/tmp/hangXXXXXX";if(!mkdtemp(d)){perror("mkdtemp");return 1;}hf_start(d);hf_hang_flush=1;char p[64];sprintf(p,"%s/f",d);
 for(int i=0;i<n;i++){int f=open(p,O_RDONLY);if(f<0){perror("open f");return 1;}
  int s=socket(AF_UNIX,SOCK_SEQPACKET,0);struct sockaddr_un a={.sun_family=AF_UNIX};strcpy(a.sun_path,v[1]);if(connect(s,(void*)&a,sizeof a)){perror("connect");return 1;}
  char cb[CMSG_SPACE(sizeof(int))]={0};struct iovec io={"x",1};struct msghdr m={.msg_iov=&io,.msg_iovlen=1,.msg_control=cb,.msg_controllen=sizeof cb};struct cmsghdr*h=CMSG_FIRSTHDR(&m);h->cmsg_level=SOL_SOCKET;h->cmsg_type=SCM_RIGHTS;h->cmsg_len=CMSG_LEN(sizeof(int));memcpy(CMSG_DATA(h),&f,sizeof f);
  if(sendmsg(s,&m,0)<0)perror("sendmsg");
 }
 fprintf(stderr,"sent %d, uid %u\n",n,getuid());
 for(;;)pause();}
